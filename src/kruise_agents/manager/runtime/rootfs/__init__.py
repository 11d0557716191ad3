"""The files that a sandbox sees outside of its home."""
