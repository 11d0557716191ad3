"""Linux interfaces that the sandbox's program applies to itself."""
