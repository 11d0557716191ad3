"""The patch of addresses, under which the SDK speaks the private protocol on one domain."""
