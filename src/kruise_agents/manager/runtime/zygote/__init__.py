"""The zygote: a process from which sandboxes' programs are forked, so that each saves the start of Python."""
