"""The process that sandboxes' programs are forked from."""
