"""The traffic token patch: requests to protected sandboxes carry a token that is renewed in time."""
