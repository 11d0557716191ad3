"""Interfaces of the Linux kernel that the program in a sandbox uses."""
