"""A server on loopback that records every request, and answers the request or passes it on to another server.

The server's own answers are just enough for an SDK call to go on. The module uses the standard library alone, because
it also runs in environments that have nothing but an SDK.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import ssl
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

_BLOCK = 65536


@dataclass(frozen=True)
class RecordedRequest:
    """A request as it was on the wire, with the names of its headers in lower case.

    ``method`` is ``?`` if the request line is not HTTP. The body of a request that was passed on is not kept.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def host(self) -> str:
        return self.headers.get("host", "")

    @property
    def api_key(self) -> str | None:
        return self.headers.get("x-api-key")

    @property
    def route(self) -> str:
        """The path below the private API, without the query."""
        return self.target.partition("?")[0].removeprefix("/kruise/api")

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


@dataclass(frozen=True)
class Answer:
    """A response of the server."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, status: int, value: object) -> Answer:
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    @classmethod
    def text(cls, status: int, text: str, **headers: str) -> Answer:
        return cls(status, text.encode(), {"Content-Type": "text/plain; charset=utf-8", **headers})

    def on_the_wire(self) -> bytes:
        headers = {**self.headers, "Content-Length": str(len(self.body)), "Connection": "close"}
        first = f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}"
        head = "\r\n".join([first, *(f"{name}: {value}" for name, value in headers.items())])
        return f"{head}\r\n\r\n".encode() + self.body


@dataclass
class Recorder:
    """A context manager around the server.

    Args:
        answer: the domain in the answer to a create; None leaves the domain out.
        special: answers by method and route, such as ``POST /v2/sandboxes``. Several answers are given in their order,
            and the last answer is given again and again.
        upstream: a port on loopback to which all bytes are passed on instead of being answered.
        tls: a folder with ``server.pem``, ``server.key`` and ``ca.pem``: the recorder serves https with the first two,
            and expects a certificate of the authority ``ca.pem`` from the upstream. None: both sides are plain http.
    """

    answer: str | None = None
    special: dict[str, list[Answer]] = field(default_factory=dict)
    upstream: int | None = None
    tls: Path | None = None
    requests: list[RecordedRequest] = field(default_factory=list)

    def __enter__(self) -> Recorder:
        self._loop = asyncio.new_event_loop()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        starting = asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._server_context())
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self.port: int = self._server.sockets[0].getsockname()[1]
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
        """The domain that a recorded program uses."""
        return f"{'localhost' if self.tls else '127.0.0.1'}:{self.port}"

    @property
    def targets(self) -> list[str]:
        return [request.target for request in self.requests]

    @property
    def api_calls(self) -> list[str]:
        """The method and the target below the API's base, for each request."""
        return [str(request).replace("/kruise/api", "", 1) for request in self.requests]

    def outside(self, prefix: str) -> list[str]:
        """Return method and URL of each request for another host than this server, or outside of ``prefix``."""
        return [
            f"{request.method} {request.host}{request.target}"
            for request in self.requests
            if request.host != self.domain or not request.target.startswith(prefix)
        ]

    def respond(self, request: RecordedRequest) -> Answer:
        """Return the answer to a request without a special answer. Subclasses answer other requests."""
        route = request.target.partition("?")[0]
        if request.method == "POST" and route.endswith("/sandboxes"):
            created = {"templateID": "t", "sandboxID": "sbx", "clientID": "c", "envdVersion": "0.4.0"}
            return Answer.json(201, {**created, "domain": self.answer} if self.answer else created)
        if request.method == "DELETE" or route.endswith("/health"):
            return Answer(204)
        if route.endswith("/files"):
            return Answer.json(200, [{"name": "a", "type": "file", "path": "/a"}])
        return Answer.json(404, {"code": "not_found", "message": "not here"})

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
            with contextlib.suppress(asyncio.IncompleteReadError, OSError, ssl.SSLError):
                await (self._answer(reader, writer) if self.upstream is None else self._pass_on(reader, writer))
        finally:
            writer.close()
            del self._connections[task]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, request = await _read_head(reader)
        body = b"".join([content async for _, content in _pieces(reader, request.headers)])
        request = RecordedRequest(request.method, request.target, request.headers, body)
        self.requests.append(request)
        writer.write((self._special(request) or self.respond(request)).on_the_wire())
        await writer.drain()

    def _special(self, request: RecordedRequest) -> Answer | None:
        answers = self.special.get(f"{request.method} {request.route}")
        if not answers:
            return None
        return answers[0] if len(answers) == 1 else answers.pop(0)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("localhost", self.upstream, ssl=self._client_context())
        answers = asyncio.create_task(_copy(up_reader, writer))
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError, ssl.SSLError):
                while True:
                    await self._pass_on_request(reader, up_writer)
        finally:
            up_writer.close()
            await answers

    async def _pass_on_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, request = await _read_head(reader)
        self.requests.append(request)
        writer.write(head)
        if "upgrade" in request.headers:
            await _copy(reader, writer)  # a WebSocket: no more requests on this connection
            return
        async for piece, _ in _pieces(reader, request.headers):
            writer.write(piece)
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


@dataclass
class TemplateBuilds(Recorder):
    """A recorder that answers the requests of a template build, whose files go to ``upload_url``."""

    upload_url: str = ""

    def respond(self, request: RecordedRequest) -> Answer:
        if "/files/" in request.target:
            return Answer.json(201, {"present": False, "url": self.upload_url})
        if request.target.endswith("/v3/templates"):
            names = {"aliases": ["matrix"], "names": ["matrix"], "tags": [], "public": False}
            return Answer.json(202, {"templateID": "t", "buildID": "b", **names})
        return Answer(202)


async def _read_head(reader: asyncio.StreamReader) -> tuple[bytes, RecordedRequest]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    parts = first.split(" ")
    method, target = (parts[0], parts[1]) if len(parts) == 3 else ("?", first)
    return head, RecordedRequest(method, target, headers)


async def _pieces(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> AsyncIterator[tuple[bytes, bytes]]:
    """Yield the pieces of a body as they arrive: the bytes on the wire, and the content."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        size = -1
        while size:
            line = await reader.readuntil(b"\r\n")
            size = int(line.partition(b";")[0], 16)
            chunk = await reader.readexactly(size + 2)
            yield line + chunk, chunk[:-2]
        return
    left = int(headers.get("content-length", "0"))
    while left:
        block = await reader.readexactly(min(left, _BLOCK))
        yield block, block
        left -= len(block)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
    writer.close()
