"""Limits of a sandbox, enforced by the kernel or by the watchdog."""
