"""What runs in a kernel's own process: ipykernel, set up as E2B's template sets it up.

Nothing here is imported by the server, and nothing of the server is imported here.
"""
