"""HTTP/1.1 over a stream that is already connected: one request, one response, then the stream is closed.

The gateway forwards with it and the manager speaks to a sandbox's control socket with it. h11 does the protocol.
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
    """One request and its response on one stream.

    Sending and receiving are independent, so that a response can begin before the request's body has ended.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._method = ""
        self._length: int | None = None

    @classmethod
    async def on(cls, connection: socket.socket) -> Exchange:
        """An exchange on a connected socket, which it then owns."""
        return cls(*await asyncio.open_connection(sock=connection, limit=_CHUNK))

    async def send_head(self, method: str, target: bytes, headers: Headers) -> None:
        """Send the request line and headers.

        Raises:
            h11.LocalProtocolError: they cannot be written as HTTP.
        """
        self._method = method
        await self._send(h11.Request(method=method, target=target, headers=list(headers)))

    async def send_body(self, data: bytes) -> None:
        """Send a piece of the body; returns when the other side has taken enough of what is buffered."""
        await self._send(h11.Data(data=data))

    async def send_end(self) -> None:
        """Say that the body is complete."""
        await self._send(h11.EndOfMessage())

    async def receive_head(self) -> h11.Response | h11.InformationalResponse:
        """The response's status and headers; interim (1xx) responses are passed over, but for the answer to an upgrade.

        Raises:
            h11.RemoteProtocolError: the other side does not speak HTTP/1.1, or closed the stream.
        """
        for _ in range(_MAX_INTERIM):
            event = await self._next()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("the connection was closed before a response came")
            if event.status_code == _SWITCHING:  # h11 lets it pass only where an upgrade was asked for
                return event
        raise h11.RemoteProtocolError(f"more than {_MAX_INTERIM} interim responses")

    async def receive_body(self) -> AsyncIterator[bytes]:
        """The pieces of the response's body, as they come.

        Raises:
            h11.RemoteProtocolError: the stream ended in the middle of the body.
        """
        if self._length is not None:
            async for piece in self._plain_body(self._length):
                yield piece
            return
        while isinstance(event := await self._next(), h11.Data):
            yield bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            raise h11.RemoteProtocolError("the connection was closed in the middle of the body")

    def switched(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        """The stream after ``101 Switching Protocols``, and what of the new protocol was read already."""
        return self._reader, self._writer, self._connection.trailing_data[0]

    async def _plain_body(self, left: int) -> AsyncIterator[bytes]:
        """A body of a known length, past h11, which copies each byte three times."""
        piece = self._connection.trailing_data[0][:left]
        while left:
            if piece:
                left -= len(piece)
                yield piece
            if left and not (piece := await self._reader.read(min(left, _CHUNK))):
                raise h11.RemoteProtocolError("the connection was closed in the middle of the body")

    def abort(self) -> None:
        """Close the stream at once; whoever waits on it gets an error."""
        self._writer.transport.abort()

    def close(self) -> None:
        """Close the stream."""
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
        return event  # type: ignore[return-value]  # NEED_DATA is not among them any more


def _length(method: str, head: h11.Response) -> int | None:
    """The bytes of a response's body, where the head alone says so (RFC 9112, section 6.3); h11 has checked it."""
    if method in ("HEAD", "CONNECT") or head.status_code in (204, 304):
        return None
    fields = dict(head.headers)
    return None if b"transfer-encoding" in fields or b"content-length" not in fields else int(fields[b"content-length"])


async def exchange(
    connection: socket.socket, method: str, target: str, body: bytes, more_headers: Headers = ()
) -> tuple[int, bytes]:
    """Send one small JSON request on a connected socket and return the status and the body of the answer.

    Raises:
        OSError: the other side went away, does not speak HTTP, or answers with more than 4 MiB.
    """
    one = await Exchange.on(connection)
    try:
        headers = [
            (b"host", b"sandbox"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *more_headers,
        ]
        await one.send_head(method, target.encode(), headers)
        await one.send_body(body)
        await one.send_end()
        head = await one.receive_head()
        answer = bytearray()
        async for piece in one.receive_body():
            answer += piece
            if len(answer) > _MAX_ANSWER_BYTES:
                raise ConnectionResetError(f"the answer is larger than {_MAX_ANSWER_BYTES} bytes")
        return head.status_code, bytes(answer)
    except h11.RemoteProtocolError as error:
        raise ConnectionResetError(str(error)) from error
    finally:
        one.close()
