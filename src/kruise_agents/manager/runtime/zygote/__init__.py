"""The manager's side of the zygote, a process that forks the programs of sandboxes, which saves the start of Python."""
