"""The two patches of the E2B SDK: a table of places and replacements for each, and the code that applies a table.

Importing this package does not import ``e2b``.
"""
