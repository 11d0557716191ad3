"""The program of a kernel: ipykernel with the settings of E2B's template.

The server imports nothing of this package, and this package imports nothing of the server.
"""
