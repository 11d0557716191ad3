"""API keys with their quotas and secrets, and the transfer of what deleted keys owned."""
