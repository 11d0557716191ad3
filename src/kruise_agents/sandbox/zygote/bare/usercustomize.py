"""An empty module, found before the host's ``usercustomize``, which sandboxes do not see."""
