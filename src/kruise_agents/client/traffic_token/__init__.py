"""The patch of traffic access tokens: requests to protected sandboxes carry a token, which is renewed in time."""
