"""The server of the manager's port."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...serving import Server
from .dispatch import ManagerApp

if TYPE_CHECKING:
    from .connection import GuardedHttpProtocol


def front_server(
    app: ManagerApp,
    listeners: Sequence[socket.socket],
    protocol: type[GuardedHttpProtocol] | None = None,
    **tls: Any,
) -> Server:
    """Return a server that is not started yet.

    Args:
        listeners: Bound sockets.
        tls: uvicorn's settings for TLS; none for plain http.
    """
    # Only now, so that check_uvicorn() can run before: the import fails where uvicorn has no such class.
    from .connection import GuardedHttpProtocol, everyday_events

    logging.getLogger("uvicorn.error").addFilter(everyday_events)
    # WebSockets are requests like others, until the gateway takes their connection over.
    return Server(app, listeners, http=protocol or GuardedHttpProtocol, **tls)
