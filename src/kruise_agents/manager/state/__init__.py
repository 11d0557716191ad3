"""The state that survives a restart of the manager: its database and its secret."""
