"""The two patches of the E2B SDK, and the code that applies and undoes them.

Each patch is a table of places in the SDK, with a replacement for each place. Importing this package does not import
``e2b``.
"""
