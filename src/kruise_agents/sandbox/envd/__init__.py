"""The agent envd in a sandbox, on port 49983: file transfers, the filesystem service and the process service.

Sources of the behaviour: E2B's public envd 0.6.13, and the Python SDK e2b 2.8.0 to 2.63.0 as a client.
"""

from __future__ import annotations

from .app import Envd

__all__ = ["Envd"]
