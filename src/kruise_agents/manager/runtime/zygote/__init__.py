"""The zygote: a process of which the programs of sandboxes are forks, so that they need not start Python."""
