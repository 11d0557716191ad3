"""The address patch: the SDK speaks the private protocol on one domain."""
