"""The agent at port 49983 of a sandbox: file transfers, the filesystem service, the process service and metrics.

Sources of the behaviour: E2B's public envd 0.6.13, and the Python SDK e2b 2.8.0 to 2.63.0 as a client.
"""

from __future__ import annotations

from .app import Envd

__all__ = ["Envd"]
