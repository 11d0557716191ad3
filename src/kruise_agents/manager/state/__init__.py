"""The state that survives the manager: its database and its secret."""
