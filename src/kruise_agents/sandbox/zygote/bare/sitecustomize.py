"""An empty module, found before the host's ``sitecustomize``, which sandboxes do not see."""
