"""Patch of addresses: the SDK speaks the private protocol on one domain."""
