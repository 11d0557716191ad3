"""The least that a Python program takes between a client and a file: a server that reads almost nothing of a request.

`bare_server.py answer <socket> <file>` gives prepared answers on a Unix socket: for a list, the content of the file.
`bare_server.py forward <socket>` passes bytes between a free port, which it prints, and that socket. Neither program
checks anything, and neither reads or writes files. benchmarks/sandbox.py puts the second in front of the first, as the
manager is in front of envd.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from pathlib import Path

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_BUFFER = 1024 * 1024


class Answer(asyncio.Protocol):
    """A connection whose requests have a Content-Length or no body."""

    def __init__(self, entries: bytes) -> None:
        self._entries = response(entries)
        self._head = b""
        self._left = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # connections are streams
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            length = _LENGTH.search(self._head, 0, end)
            self._left = (int(length[1]) if length else 0) + end
            data = self._head
        self._left -= len(data)
        if self._left:
            return
        first, self._head = self._head, b""
        if first.startswith(b"GET"):
            self._transport.write(CONTENT)
        else:
            self._transport.write(self._entries if b"ListDir" in first[:200] else WRITTEN)


class Side(asyncio.Protocol):
    """A side of a connection that is passed on."""

    def __init__(self, other: Side | None = None) -> None:
        self.other = other

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # connections are streams
        self.transport = transport
        if self.other is None:
            transport.pause_reading()
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        inner = socket.socket(socket.AF_UNIX)
        inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        inner.connect(sys.argv[2])
        _, self.other = await asyncio.get_running_loop().create_connection(lambda: Side(self), sock=inner)
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        assert self.other is not None
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        assert self.other is not None
        self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()


def response(body: bytes, content_type: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (content_type, len(body), body)


CONTENT = response(b"x" * 1024, b"text/plain; charset=utf-8")
WRITTEN = response(b'[{"path":"/home/user/small","name":"small","type":"file"}]')


async def serve(entries: bytes) -> None:
    loop = asyncio.get_running_loop()
    if sys.argv[1] == "answer":
        server = await loop.create_unix_server(lambda: Answer(entries), sys.argv[2])
        print("serving", flush=True)
    else:
        server = await loop.create_server(Side, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[3]).read_bytes() if sys.argv[1] == "answer" else b""))
