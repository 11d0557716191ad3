"""https on the manager's port: on the same port as plain http, or, with ``--tls``, in its place.

The first byte of a connection tells which of the two a client speaks: a TLS handshake begins with 22, and no request
does. A connection that begins a handshake is handed to asyncio's TLS protocol, with the bytes that have come.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from functools import partial
from typing import Any

from ...errors import ConfigurationError
from .admission import Admission, connection_of, peer_of

_HANDSHAKE = 22  # the content type of the first record, RFC 8446, section 5.1
_MOST_PEERS = 1000

logger = logging.getLogger(__name__)


class Https:
    """The https side of the manager's port.

    Args:
        load: Returns the certificate's settings. Called at once with ``only``, else in a thread at the first handshake.
        advice: What the user of a client can do that does not trust the certificate, for the log.
        only: True if plain http is refused.
    """

    def __init__(self, load: Callable[[], ssl.SSLContext], advice: str, *, only: bool = False) -> None:
        self.only = only
        self._load = load
        self._advice = advice
        self._context = load() if only else None
        self._loading: asyncio.Task[ssl.SSLContext] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # Each takes far more memory than a plain connection. With ``only`` the listeners have this bound themselves.
        self._admission = None if only else Admission.within_descriptors(tls=True)
        self._told: set[str] = set()

    @staticmethod
    def begins(data: bytes) -> bool:
        """Return whether the first bytes of a connection begin a TLS handshake."""
        return data[0] == _HANDSHAKE

    def take_over(self, transport: asyncio.Transport, protocol: asyncio.Protocol, data: bytes, seconds: float) -> None:
        """Do the handshake that ``data`` begins, and then give ``protocol`` a transport with TLS.

        ``protocol`` must hold nothing for the connection: if the handshake fails, or takes longer than ``seconds``,
        ``protocol`` hears no more of the connection.
        """
        connection = connection_of(transport)
        if self._admission is not None and connection is not None and not connection.enter(self._admission):
            transport.abort()
            return
        shake_hands = partial(self._shake_hands, transport, protocol, data, seconds)
        if self._context is not None:
            shake_hands(self._context)
            return
        transport.pause_reading()
        task = asyncio.create_task(self._load_and_go_on(transport, shake_hands))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load_and_go_on(
        self, transport: asyncio.Transport, shake_hands: Callable[[ssl.SSLContext], None]
    ) -> None:
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._load))
        try:
            self._context = await asyncio.shield(self._loading)
        except (OSError, ConfigurationError) as error:  # ssl.SSLError is an OSError
            self._loading = None  # the next handshake tries again
            logger.error("no https, because the certificate cannot be made or read: %s", error)  # noqa: TRY400 - expected
            transport.abort()
            return
        if not transport.is_closing():
            shake_hands(self._context)
            transport.resume_reading()

    def _shake_hands(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        data: bytes,
        seconds: float,
        context: ssl.SSLContext,
    ) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        done.add_done_callback(partial(self._tell, transport.get_extra_info("peername")))
        # loop.start_tls() does the same, but takes no bytes that have been read.
        tls = SSLProtocol(
            *(loop, protocol, context, done),
            server_side=True,
            ssl_handshake_timeout=seconds,  # type: ignore[arg-type]  # a float works too
        )
        transport.set_protocol(tls)
        tls.connection_made(transport)
        rest = memoryview(data)
        while rest:
            buffer = memoryview(tls.get_buffer(len(rest)))
            size = min(len(buffer), len(rest))
            buffer[:size] = rest[:size]
            tls.buffer_updated(size)
            rest = rest[size:]

    def _tell(self, address: tuple[Any, ...], done: asyncio.Future[None]) -> None:
        """Log why a client ended its handshake, once for each peer. Bytes that are no TLS are not worth a line."""
        if done.cancelled() or (error := done.exception()) is None:
            return
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        if isinstance(error, ssl.SSLError) and "ALERT" not in reason:
            return
        peer = peer_of(address)
        if peer in self._told or len(self._told) >= _MOST_PEERS:
            return
        self._told.add(peer)
        logger.warning(
            "a client at %s began https and left before it sent a request (%s): most likely it does not trust this "
            "manager's certificate. %s",
            *(address[0], reason, self._advice),
        )
