"""The command ``kruise-agents run``: a program with the SDK patched in each of its Python processes."""
