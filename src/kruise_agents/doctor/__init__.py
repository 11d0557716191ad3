"""The command ``kruise-agents doctor``: checks that say why a program does not reach its manager."""
