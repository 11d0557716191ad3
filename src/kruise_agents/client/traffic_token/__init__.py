"""Patch of traffic access tokens: requests to protected sandboxes carry a token that is renewed in time."""
