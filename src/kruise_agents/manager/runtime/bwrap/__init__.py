"""Namespaces of sandboxes, and programs in them, made by bubblewrap."""
