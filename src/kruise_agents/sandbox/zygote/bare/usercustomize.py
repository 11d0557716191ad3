"""An empty module, which Python finds before the host's ``usercustomize``. Sandboxes do not see the host's module."""
