"""uvicorn as a part of a larger program, and what makes small messages cheap.

Importing this package does not import ``http_protocol``, because the manager checks the installed uvicorn first.
"""

from __future__ import annotations

from .joined_writes import JoinedWrites
from .server import KEEP_ALIVE_SECONDS, Server

__all__ = ["KEEP_ALIVE_SECONDS", "JoinedWrites", "Server"]
