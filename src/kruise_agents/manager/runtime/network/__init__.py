"""The way of a sandbox to the internet."""
