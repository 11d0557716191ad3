"""What touches the E2B SDK: the table of seams, their replacements, and how they are put in and taken out.

Importing this package does not import ``e2b``.
"""
