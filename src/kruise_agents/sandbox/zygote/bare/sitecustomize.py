"""Empty: found before that of the host, which sandboxes do not see."""
