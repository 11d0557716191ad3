"""Programs in namespaces, started by bubblewrap."""
