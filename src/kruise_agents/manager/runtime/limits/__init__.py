"""The limits of a sandbox, and what enforces them."""
