"""The HTTP server of the manager's port."""
