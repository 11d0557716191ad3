"""An empty module, which Python finds before the host's ``sitecustomize``. Sandboxes do not see the host's module."""
