"""The zygote: a process that has imported everything, and of which each sandbox's program is a fork.

The manager starts the zygote. The zygote runs outside of all sandboxes, with an environment of its own, one thread, and
no file of the host open. The zygote never learns anything about a sandbox: each fork reads its own request. A fork
enters the namespaces that ``bwrap`` has made, and takes the rights and limits of a program that ``bwrap`` has started.
"""
