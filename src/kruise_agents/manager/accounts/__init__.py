"""API keys: who may call, how much each key may have, and what it owns."""
