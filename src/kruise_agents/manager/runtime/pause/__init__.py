"""Stopping and continuing all processes of a sandbox."""
