"""The address patch, which makes the SDK speak the private protocol on one domain."""
