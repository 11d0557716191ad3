"""An HTTP/1.1 client for connected streams into a sandbox, or to another sandbox-manager.

With this client the gateway forwards requests, the manager sends requests to the programs in sandboxes, and
``kruise-agents proxy`` sends requests to its manager. The client is strict about those parts of an answer that decide
where the answer ends.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Literal

from ..serving import JoinedWrites

_CHUNK = 256 * 1024
_MAX_HEAD_BYTES = 256 * 1024
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_MAX_INTERIM = 32
_MAX_LINES = 1000
_SWITCHING = 101
_KEPT = 8
KEPT_SECONDS = 30.0
CLOSE_SECONDS = 10.0
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([0-9]{3})(?: [^\0\r\n]*)?")
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_A_VALUE = re.compile(rb"[\0\r\n]")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r?\n")

Headers = Iterable[tuple[bytes, bytes]]


class BadResponseError(Exception):
    """A response that is malformed or incomplete."""


class HttpConnection(asyncio.Protocol):
    """A connection into a sandbox or to a manager, for one request after another."""

    def __init__(self) -> None:
        self.transport: JoinedWrites
        self._received = b""
        self._ended = False
        self._error: OSError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._full = False
        self._reading = True
        self._expiry: asyncio.TimerHandle | None = None

    @classmethod
    async def on(cls, connected: socket.socket) -> HttpConnection:
        _, protocol = await asyncio.get_running_loop().create_connection(cls, sock=connected)
        return protocol

    @classmethod
    async def to(cls, host: str, port: int, tls: ssl.SSLContext | None, name: str) -> HttpConnection:
        """Connect over TCP. With ``tls``, the server must prove that it is ``name``. Raises OSError if that fails."""
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(cls, host, port, ssl=tls, server_hostname=name if tls else None)
        return protocol

    @property
    def silent(self) -> bool:
        """Return whether the connection is open and everything that came has been read."""
        return not (self._received or self._ended or self.transport.is_closing())

    def rest(self) -> None:
        """Start to wait for a next request. The connection is closed if none comes, or if the other side closes it."""
        self._expiry = asyncio.get_running_loop().call_later(KEPT_SECONDS, self.transport.close)

    def go_on(self) -> None:
        """End the wait that :meth:`rest` began, because a next request has come."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # connections are streams
        self.transport = JoinedWrites(transport)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        if len(self._received) > 2 * _CHUNK:
            self._reading = False
            self.transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        self._ended = True
        _wake(self._reader)
        return self._expiry is None  # in a request, the other side may close only its own direction

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._error = exc if isinstance(exc, OSError) else ConnectionResetError("the connection was closed")
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        _wake(self._writer)

    async def read(self) -> bytes:
        """Return the next bytes, or b"" at the end of the stream. Raises OSError if the connection broke."""
        while not (self._received or self._ended):
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if self._error is not None and not self._received:
            raise self._error
        data, self._received = self._received, b""
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()
        return data

    def unread(self, data: bytes) -> None:
        """Put bytes back, to be read again."""
        self._received = data + self._received

    async def write(self, data: bytes) -> None:
        """Send bytes. If the other side reads slowly, wait until most bytes are sent."""
        if self._error is not None:
            raise self._error
        self.transport.write(data)
        while self._full and self._error is None:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
        if self._error is not None:
            raise self._error


class KeptConnections:
    """The connections to the ports of one sandbox that wait for a next request, for half a minute each.

    At most ``most`` connections wait for each port.
    """

    def __init__(self, most: int = _KEPT) -> None:
        self._most = most
        self._waiting: dict[int, list[HttpConnection]] = {}

    def take(self, port: int) -> HttpConnection | None:
        waiting = self._waiting.get(port, [])
        while waiting:
            connection = waiting.pop()
            connection.go_on()
            if connection.silent:
                return connection
            connection.transport.close()
        return None

    def give(self, port: int, connection: HttpConnection) -> None:
        waiting = [other for other in self._waiting.get(port, []) if other.silent]
        if len(waiting) < self._most:
            waiting.append(connection)
            connection.rest()
        else:
            connection.transport.close()
        self._waiting[port] = waiting

    def close(self) -> None:
        for port in list(self._waiting):
            while (connection := self.take(port)) is not None:
                connection.transport.close()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of a response. Header names are in lower case."""

    version: bytes
    status: int
    headers: list[tuple[bytes, bytes]]

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


class Exchange:
    """A request and its response on a connection.

    Sending and receiving are independent, so that a response can begin before the request's body has ended. Receiving
    raises BadResponseError if the response is malformed or incomplete. Sending and receiving raise OSError if the
    connection breaks.
    """

    def __init__(self, connection: HttpConnection) -> None:
        self.connection = connection
        self._method = ""
        self._chunked = False
        self._upgrades = False
        self._sent = False
        self._length: int | Literal["chunked", "to the end"] = 0
        self._keeps = False
        self.complete = False

    @classmethod
    async def on(cls, connected: socket.socket) -> Exchange:
        return cls(await HttpConnection.on(connected))

    async def send_head(self, method: str, target: bytes, headers: Headers) -> None:
        """Send the head. Headers must be well-formed, and the sender of a body must keep to the Content-Length."""
        self._method = method
        lines = [b"%b %b HTTP/1.1" % (method.encode("ascii"), target)]
        for name, value in headers:
            lines.append(b"%b: %b" % (name, value))
            self._chunked |= name == b"transfer-encoding"
            self._upgrades |= name == b"upgrade"
        await self.connection.write(b"\r\n".join([*lines, b"", b""]))

    async def send_body(self, data: bytes) -> None:
        """Send a piece of the body. If the other side reads slowly, wait until most bytes are sent."""
        await self.connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def send_end(self) -> None:
        if self._chunked:
            await self.connection.write(b"0\r\n\r\n")
        self._sent = True

    def send_rest(self, data: bytes) -> None:
        """Send the rest of a body that is complete in memory, without waiting for the other side."""
        if self._chunked:
            data = (b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + b"0\r\n\r\n"
        self.connection.transport.write(data)
        self.connection.transport.flush()
        self._sent = True

    async def receive_head(self) -> ResponseHead:
        """Return the head of the response, or of a 101 that answers an upgrade. Skip other interim (1xx) responses."""
        for _ in range(_MAX_INTERIM + 1):
            head = read_head(await self._head_bytes())
            if head.status == _SWITCHING:
                if not self._upgrades:
                    raise BadResponseError("it switched to another protocol, which nobody had asked for")
                return head
            if head.status >= 200:
                self._length = _body_length(self._method, head)
                named = {word.strip().lower() for value in head.all(b"connection") for word in value.split(b",")}
                self._keeps = head.version == b"1" and b"close" not in named and self._length != "to the end"
                return head
        raise BadResponseError(f"more than {_MAX_INTERIM} interim responses")

    async def receive_body(self) -> AsyncIterator[bytes]:
        if self._length == "chunked":
            chunks = Chunks()
            while not chunks.ended:
                if chunks.rest:
                    await asyncio.sleep(0)  # many tiny chunks take long, and other connections must go on
                if piece := chunks.feed(chunks.rest or await self._more()):
                    yield piece
            self.connection.unread(chunks.rest)
        elif self._length == "to the end":
            while piece := await self.connection.read():
                yield piece
        else:
            left = self._length
            while left:
                piece = await self._more()
                if len(piece) > left:
                    self.connection.unread(piece[left:])
                    piece = piece[:left]
                left -= len(piece)
                self.complete = not left
                yield piece
        self.complete = True

    @property
    def reusable(self) -> bool:
        """Return whether both sides are done with the exchange, and the connection can serve a next request."""
        return self._keeps and self._sent and self.complete and self.connection.silent

    def switched(self) -> tuple[asyncio.Transport, bytes]:
        """Return the transport after a ``101`` response, and the bytes that were already read after the head."""
        transport = self.connection.transport
        transport.flush()
        received, self.connection._received = self.connection._received, b""
        return transport.inner, received

    def abort(self) -> None:
        """Close the stream at once, so that no task waits on the stream any longer."""
        self.connection.transport.abort()

    def close(self) -> None:
        """Close the stream when the other side has read what was sent, or after some seconds."""
        transport = self.connection.transport
        transport.close()
        if transport.inner.get_write_buffer_size():
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, transport.abort)

    async def _head_bytes(self) -> bytes:
        head = bytearray()
        while True:
            searched = max(len(head) - 2, 0)  # a head that comes byte by byte is searched only once
            head += await self._more("the connection was closed before a response came")
            if end := _END_OF_HEAD.search(head, searched):
                break
            if len(head) > _MAX_HEAD_BYTES:
                raise BadResponseError("the head of its answer is too large")
        self.connection.unread(bytes(head[end.end() :]))
        return bytes(head[: end.end()])

    async def _more(self, complaint: str = "the connection was closed in the middle of the body") -> bytes:
        if data := await self.connection.read():
            return data
        raise BadResponseError(complaint)


def read_head(data: bytes) -> ResponseHead:
    """Parse the head of a response. As many servers do, accept a line feed alone as the end of a line."""
    first, *lines = (line.removesuffix(b"\r") for line in data.rstrip(b"\r\n").split(b"\n"))
    status_line = _STATUS_LINE.fullmatch(first)
    if status_line is None:
        raise BadResponseError("it does not begin with a status line of HTTP/1.1")
    fields: list[tuple[bytes, list[bytes]]] = []
    for line in lines:
        if line.startswith((b" ", b"\t")) and fields:  # RFC 9112, section 5.2
            fields[-1][1].append(line.strip(b" \t"))
            continue
        name, colon, value = line.partition(b":")
        if _NAME.fullmatch(name) is None or not colon:
            raise BadResponseError("a header of its answer is not 'name: value'")
        fields.append((name, [value.strip(b" \t")]))
    headers: list[tuple[bytes, bytes]] = []
    for name, parts in fields:
        value = b" ".join(parts)
        if _NOT_IN_A_VALUE.search(value):
            raise BadResponseError(f"its header {name.decode()} has a control character")
        headers.append((name.lower(), value.strip(b" \t")))
    return ResponseHead(status_line[1], int(status_line[2]), headers)


def _body_length(method: str, head: ResponseHead) -> int | Literal["chunked", "to the end"]:
    """Return the length of a response's body in bytes, or how its end is found (RFC 9112, section 6.3)."""
    lengths, codings = set(head.all(b"content-length")), head.all(b"transfer-encoding")
    if len(lengths) > 1 or any(_LENGTH.fullmatch(length) is None for length in lengths):
        raise BadResponseError("its Content-Length is not one number of bytes")
    if codings and [coding.lower() for coding in codings] != [b"chunked"]:
        raise BadResponseError("its Transfer-Encoding is not 'chunked'")
    if method in ("HEAD", "CONNECT") or head.status in (204, 304):
        return 0
    if codings:
        return "chunked"
    return int(lengths.pop()) if lengths else "to the end"


class Chunks:
    """A decoder of a chunked body. ``rest`` holds bytes not decoded yet; after the end, those behind the body."""

    def __init__(self) -> None:
        self.ended = False
        self.rest = b""
        self._line = b""
        self._left = 0
        self._expected: Literal["size", "line end", "trailer"] = "size"
        self._overhead = 0

    def feed(self, data: bytes) -> bytes:
        """Return the content in the next bytes of the body. Raises BadResponseError if the chunks are malformed.

        A call decodes a limited number of chunks. Until the body has ended, pass ``rest`` to the next call.
        """
        pieces, at, lines = [], 0, 0
        while at < len(data) and lines < _MAX_LINES and not self.ended:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                self._left -= len(piece)
                at += len(piece)
                self._overhead = 0
                continue
            end = data.find(b"\n", at) + 1 or len(data)
            self._line += data[at:end]
            self._overhead += end - at
            if self._overhead > _MAX_HEAD_BYTES:
                raise BadResponseError("what stands between or after the chunks of its answer is too large")
            at = end
            lines += 1
            if self._line.endswith(b"\n"):
                self._take_line(self._line)
                self._line = b""
        self.rest = data[at:]
        return b"".join(pieces)

    def _take_line(self, line: bytes) -> None:
        if self._expected == "size":
            size = _SIZE_LINE.fullmatch(line)
            if size is None:
                raise BadResponseError("the chunks of its answer are malformed")
            self._left = int(size[1], 16)
            self._expected = "line end" if self._left else "trailer"
        elif self._expected == "line end":
            if line not in (b"\r\n", b"\n"):
                raise BadResponseError("the chunks of its answer are malformed")
            self._expected = "size"
        else:
            self.ended = line in (b"\r\n", b"\n")


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
        return head.status, bytes(answer)
    except BadResponseError as error:
        raise ConnectionResetError(str(error)) from error
    finally:
        call.close()
