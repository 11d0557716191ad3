"""A uvicorn server for use in a larger program, and a transport that sends small messages with fewer system calls.

Importing this package does not import ``http_protocol``, because the manager checks the installed uvicorn first.
"""

from __future__ import annotations

from .joined_writes import JoinedWrites
from .server import KEEP_ALIVE_SECONDS, Server

__all__ = ["KEEP_ALIVE_SECONDS", "JoinedWrites", "Server"]
