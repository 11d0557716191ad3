"""The relay, through which the manager reaches any port of the sandbox's loopback.

The manager connects to the relay's Unix socket, writes the port, and reads one byte: ``RELAY_OPEN`` when a program
listens on that port, otherwise ``RELAY_CLOSED``. After ``RELAY_OPEN``, the relay passes on the bytes of both sides. The
manager cannot name a host: the relay connects to loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from ..protocol.control import RELAY_CLOSED, RELAY_OPEN, RELAY_PORT_BYTES, decode_port

_CHUNK = 256 * 1024
_BACKLOG = 4096
_LOOPBACKS = ("127.0.0.1", "::1")


class Relay:
    """A server of relayed connections on a listening Unix socket, from :meth:`start` to :meth:`close`."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        # Not start_unix_server: since Python 3.13 it looks for the socket's path, which does not exist in the sandbox.
        self._server = await asyncio.start_server(self._accept, sock=self._listener, limit=_CHUNK, backlog=_BACKLOG)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # Relayed connections normally end when one side goes away in the middle.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await _relay(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    port = decode_port(await reader.readexactly(RELAY_PORT_BYTES))
    dialled = await _dial(port)
    if dialled is None:
        writer.write(RELAY_CLOSED)
        await writer.drain()
        return
    inner_reader, inner_writer = dialled
    try:
        writer.write(RELAY_OPEN)
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
    finally:
        inner_writer.close()


async def _dial(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    for host in _LOOPBACKS:
        try:
            return await asyncio.open_connection(host, port, limit=_CHUNK)
        except OSError:
            continue  # nothing listens on this address; try the next
    return None


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()
    with contextlib.suppress(OSError):  # the other direction may have closed the socket already
        sink.write_eof()
