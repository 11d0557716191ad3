"""envd, the agent inside a sandbox (port 49983): files, the filesystem service and the process service.

Source of the facts: E2B's public envd 0.6.13, and what e2b 2.8.0 ... 2.63.0 expect from it.
"""

from __future__ import annotations

from .app import Envd

__all__ = ["Envd"]
