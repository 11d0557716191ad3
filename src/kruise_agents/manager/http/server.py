"""The server of the manager's port."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import Any

from ...serving import Server
from .connection import GuardedHttpProtocol, OrdinaryEnds
from .dispatch import ManagerApp


def front_server(
    app: ManagerApp,
    listeners: Sequence[socket.socket],
    protocol: type[GuardedHttpProtocol] = GuardedHttpProtocol,
    **tls: Any,
) -> Server:
    """A server that is not started yet.

    Parameters:
        listeners: bound sockets.
        tls: uvicorn's settings for it; none: plain http.
    """
    logging.getLogger("uvicorn.error").addFilter(OrdinaryEnds())
    # WebSockets are requests like others, until the gateway takes their connection over.
    return Server(app, listeners, http=protocol, **tls)
