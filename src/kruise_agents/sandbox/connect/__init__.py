"""The Connect protocol (version 1), as far as E2B's clients speak it: JSON messages, unary calls, one-way streams.

``framing`` cuts streams into frames and ``message`` reads messages; both work without a socket. ``service`` serves
handlers as an ASGI application.
"""

from __future__ import annotations

from .call import Call
from .errors import Code, ConnectError
from .message import Message
from .response import Json
from .service import ClientStream, ConnectService, Method, ServerStream, Unary

__all__ = [
    "Call",
    "ClientStream",
    "Code",
    "ConnectError",
    "ConnectService",
    "Json",
    "Message",
    "Method",
    "ServerStream",
    "Unary",
]
