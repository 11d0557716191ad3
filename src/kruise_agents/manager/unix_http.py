"""An HTTP/1.1 client for one request on a connected stream, built on h11.

With this client the gateway forwards requests, and the manager sends requests to the programs in sandboxes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable

import h11

_CHUNK = 256 * 1024
_MAX_HEAD_BYTES = 256 * 1024
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_MAX_INTERIM = 32
_SWITCHING = 101
Headers = Iterable[tuple[bytes, bytes]]


class Exchange:
    """A request and its response on a stream of their own.

    Sending and receiving are independent, so that a response can begin before the request's body has ended. Sending
    raises ``h11.LocalProtocolError`` for a request that HTTP cannot express. Receiving raises
    ``h11.RemoteProtocolError`` if the response is malformed or incomplete. Sending and receiving raise OSError if the
    connection breaks.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._method = ""
        self._length: int | None = None

    @classmethod
    async def on(cls, connection: socket.socket) -> Exchange:
        return cls(*await asyncio.open_connection(sock=connection, limit=_CHUNK))

    async def send_head(self, method: str, target: bytes, headers: Headers) -> None:
        self._method = method
        await self._send(h11.Request(method=method, target=target, headers=list(headers)))

    async def send_body(self, data: bytes) -> None:
        """Send a piece of the body. If the other side reads slowly, wait until most bytes are sent."""
        await self._send(h11.Data(data=data))

    async def send_end(self) -> None:
        await self._send(h11.EndOfMessage())

    async def receive_head(self) -> h11.Response | h11.InformationalResponse:
        """Return the head of the response, or of a 101 that answers an upgrade. Skip other interim (1xx) responses."""
        for _ in range(_MAX_INTERIM + 1):
            event = await self._next()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("the connection was closed before a response came")
            if event.status_code == _SWITCHING:  # h11 accepts a 101 only if an upgrade was asked for
                return event
        raise h11.RemoteProtocolError(f"more than {_MAX_INTERIM} interim responses")

    async def receive_body(self) -> AsyncIterator[bytes]:
        if self._length is not None:
            async for piece in self._plain_body(self._length):
                yield piece
            return
        while isinstance(event := await self._next(), h11.Data):
            yield bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            raise h11.RemoteProtocolError("the connection was closed in the middle of the body")

    def switched(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        """Return the stream after a ``101`` response, and the bytes that were already read after the head."""
        return self._reader, self._writer, self._connection.trailing_data[0]

    async def _plain_body(self, left: int) -> AsyncIterator[bytes]:
        """Yield a body of a known length without h11, which would copy each byte three times."""
        piece = self._connection.trailing_data[0][:left]
        while left:
            if piece:
                left -= len(piece)
                yield piece
            if left and not (piece := await self._reader.read(min(left, _CHUNK))):
                raise h11.RemoteProtocolError("the connection was closed in the middle of the body")

    def abort(self) -> None:
        """Close the stream at once, so that no task waits on the stream any longer."""
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()

    async def _send(self, event: h11.Event) -> None:
        data = self._connection.send(event)
        if data:
            self._writer.write(data)
            await self._writer.drain()

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        while (event := self._connection.next_event()) is h11.NEED_DATA:
            self._connection.receive_data(await self._reader.read(_CHUNK))
        if isinstance(event, h11.Response):
            self._length = _length(self._method, event)
        return event  # type: ignore[return-value]  # never NEED_DATA here


def _length(method: str, head: h11.Response) -> int | None:
    """Return the length of a response's body if ``content-length`` gives it (RFC 9112, section 6.3), else None."""
    if method in ("HEAD", "CONNECT") or head.status_code in (204, 304):
        return None
    fields = dict(head.headers)
    return None if b"transfer-encoding" in fields or b"content-length" not in fields else int(fields[b"content-length"])


async def exchange(
    connection: socket.socket, method: str, target: str, body: bytes, more_headers: Headers = ()
) -> tuple[int, bytes]:
    """Send a small request on a connected socket, return status and body of the answer, and close the socket.

    Raises OSError if the other side went away, or if the answer is malformed or larger than 4 MiB.
    """
    call = await Exchange.on(connection)
    try:
        headers = [
            (b"host", b"sandbox"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *more_headers,
        ]
        await call.send_head(method, target.encode(), headers)
        await call.send_body(body)
        await call.send_end()
        head = await call.receive_head()
        answer = bytearray()
        async for piece in call.receive_body():
            answer += piece
            if len(answer) > _MAX_ANSWER_BYTES:
                raise ConnectionResetError(f"the answer is larger than {_MAX_ANSWER_BYTES} bytes")
        return head.status_code, bytes(answer)
    except h11.RemoteProtocolError as error:
        raise ConnectionResetError(str(error)) from error
    finally:
        call.close()
