"""Parts of a sandbox's file tree: first files, root file systems, and the manager's Python."""
