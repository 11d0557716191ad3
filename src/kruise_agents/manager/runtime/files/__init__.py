"""File trees of sandboxes: layout, owners, copies and removal."""
