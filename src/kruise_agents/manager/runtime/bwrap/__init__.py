"""Programs in namespaces of their own, started by bubblewrap."""
