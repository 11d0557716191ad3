"""Internet access of sandboxes."""
