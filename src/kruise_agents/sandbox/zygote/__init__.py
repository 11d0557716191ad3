"""The zygote: a process that has imported everything, and of which each sandbox's program is a fork.

It is started by the manager and runs outside of all sandboxes, with an environment of its own, without a file of the
host open, and with one thread. It never learns anything of a sandbox: each fork reads its own order. A fork goes into
the namespaces that ``bwrap`` has made and takes over what a program has that ``bwrap`` has started (:mod:`.entry`).
"""
