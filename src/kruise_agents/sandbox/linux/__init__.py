"""Kernel interfaces that the sandbox's program uses on itself."""
