"""The file tree of a sandbox: its own files, root file systems, and the manager's Python."""
