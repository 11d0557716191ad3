"""The manager's side of the zygote, a process that forks sandboxes' programs, so that Python need not start anew."""
