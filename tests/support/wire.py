"""A reverse proxy on loopback that hands everything on as it comes and notes each request that passes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

_BLOCK = 65536


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request as it stood on the wire; ``method`` is ``?`` for what is no HTTP."""

    method: str
    target: str
    host: str

    def __str__(self) -> str:
        return f"{self.method} {self.host}{self.target}"


@dataclass
class WireRecorder:
    """A context manager around the proxy.

    Parameters:
        upstream: port on loopback to hand everything to.
        tls: folder with ``server.pem``, ``server.key`` and ``ca.pem``: the proxy serves https with the certificate
            and expects it of the upstream; None: plain http on both sides.
    """

    upstream: int
    tls: Path | None = None
    requests: list[WireRequest] = field(default_factory=list)

    def __enter__(self) -> WireRecorder:
        self._loop = asyncio.new_event_loop()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._server_context())
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def domain(self) -> str:
        """What a program uses as its domain to come through here."""
        return f"localhost:{self.port}"

    def outside(self, prefix: str) -> list[WireRequest]:
        """The requests that were for another host than ours, or not below ``prefix``."""
        return [one for one in self.requests if one.host != self.domain or not one.target.startswith(prefix)]

    async def _stop(self) -> None:
        self._server.close()
        for writer in self._connections.values():
            writer.transport.abort()
        await asyncio.gather(*self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            await self._hand_on(reader, writer)
        finally:
            del self._connections[task]

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("localhost", self.upstream, ssl=self._client_context())
        answers = asyncio.create_task(_copy(up_reader, writer))
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError, ssl.SSLError):
                while True:
                    await self._forward_request(reader, up_writer)
        finally:
            up_writer.close()
            await answers

    async def _forward_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = _headers(lines)
        parts = first.split(" ")
        method, target = (parts[0], parts[1]) if len(parts) == 3 else ("?", first)
        self.requests.append(WireRequest(method, target, headers.get("host", "")))
        writer.write(head)
        if "upgrade" in headers:
            await _copy(reader, writer)  # a WebSocket: no more requests on this connection
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            await _copy_chunks(reader, writer)
        else:
            await _copy_exactly(int(headers.get("content-length", "0")), reader, writer)
        await writer.drain()

    def _server_context(self) -> ssl.SSLContext | None:
        if self.tls is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.tls / "server.pem", self.tls / "server.key")
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _client_context(self) -> ssl.SSLContext | None:
        return None if self.tls is None else ssl.create_default_context(cafile=str(self.tls / "ca.pem"))


def _headers(lines: Sequence[str]) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines if line)
    return {name.lower(): value.strip() for name, _, value in pairs}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
    writer.close()


async def _copy_exactly(size: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while size:
        block = await reader.read(min(size, _BLOCK))
        if not block:
            raise asyncio.IncompleteReadError(b"", size)
        writer.write(block)
        await writer.drain()
        size -= len(block)


async def _copy_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    size = -1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        writer.write(line)
        await _copy_exactly(size + 2, reader, writer)
