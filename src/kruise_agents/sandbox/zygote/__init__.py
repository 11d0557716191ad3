"""The zygote: a process that has imported what a sandbox's program imports, and whose forks become such programs.

The manager starts the zygote outside of all sandboxes. The zygote has one thread and an environment of its own, and has
only its standard streams and the manager's socket open. Each fork reads its own request, so the zygote learns nothing
about any sandbox. A fork enters the namespaces that ``bwrap`` has made, and takes over the rights and limits of a
placeholder, a program that ``bwrap`` has started and that only waits. There the fork gives up all rights on the host,
before it, or a program that it executes, reads a file of the sandbox.
"""
