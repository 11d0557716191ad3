"""The zygote: a process that forks the program of each sandbox, which saves the start of Python."""
