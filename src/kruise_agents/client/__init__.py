"""Changes to the E2B SDK: tables of places, replacements for them, and the machine that applies and undoes both.

Importing this package does not import ``e2b``.
"""
