"""The code interpreter of a sandbox (port 49999).

This package imports nothing, because a kernel imports it on the way to ``kernel`` and needs nothing of the server.
"""
