"""The manager's real HTTP server and gateway in front of applications that only send prepared bytes.

Tests send hostile requests and hostile answers, and compare the bytes on both sides. No sandbox is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from kruise_agents.manager.gateway import Gateway
from kruise_agents.manager.http.connection import GuardedHttpProtocol
from kruise_agents.manager.http.dispatch import ManagerApp
from kruise_agents.manager.http.https import Https
from kruise_agents.manager.http.listening import bind
from kruise_agents.manager.http.server import front_server
from kruise_agents.manager.metrics import Metrics, MetricsPage
from kruise_agents.manager.sandboxes.lifecycle import State
from kruise_agents.manager.sandboxes.sockets import PortClosedError
from kruise_agents.manager.traffic_tokens import TrafficTokens
from kruise_agents.manager.unix_http import HttpConnection

SANDBOXES = ("sb1", "sb2", "api-7")
CLOSED_PORT = 9
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Arrival:
    """A connection into a sandbox, and all bytes that came through the connection."""

    sandbox_id: str
    port: int
    data: bytearray = field(default_factory=bytearray)
    sent: int = 0
    ended: bool = False

    @property
    def request_line(self) -> bytes:
        return bytes(self.data).partition(b"\r\n")[0]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        lines = bytes(self.data).partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]

    @property
    def body(self) -> bytes | None:
        """The body of the request, or None while the body is incomplete. Broken framing or a second request fails."""
        head, end, rest = bytes(self.data).partition(b"\r\n\r\n")
        if not end:
            return None
        framing = [pair for pair in self.headers if pair[0] in (b"content-length", b"transfer-encoding")]
        assert len(framing) <= 1, head
        if not framing:
            assert not rest, rest
            return b""
        if framing[0][0] == b"content-length":
            size = int(framing[0][1])
            assert len(rest) <= size, rest
            return rest if len(rest) == size else None
        return _unchunked(rest)


@dataclass
class Front:
    """A running front. An application sends the answer that ``answers`` has for its port, or else :data:`OK`."""

    port: int
    protocol: type[GuardedHttpProtocol]
    arrivals: list[Arrival] = field(default_factory=list)
    api_calls: list[tuple[str, str]] = field(default_factory=list)
    answers: dict[int, list[bytes]] = field(default_factory=dict)
    connections: set[Any] = field(default_factory=set)
    stops_reading: set[int] = field(default_factory=set)
    """The ports whose applications read nothing after the head of a request."""

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, data: bytes) -> bytes:
        """Send bytes on a new connection, and return what the front sends until it closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return bytes(received)


def read_until(connection: socket.socket, end: bytes) -> bytes:
    received = bytearray()
    while end not in received:
        piece = connection.recv(65536)
        assert piece, bytes(received)
        received += piece
    return bytes(received)


@contextlib.contextmanager
def running_front(
    *, head_seconds: float = 30.0, stall_seconds: float = 30.0, https: Https | None = None
) -> Iterator[Front]:
    """Run a front in a thread, with the given time limits."""
    limits = {"head_seconds": head_seconds, "stall_seconds": stall_seconds}
    protocol = type("QuickProtocol", (GuardedHttpProtocol,), limits)
    (listener,) = bind("127.0.0.1", 0)
    front = Front(listener.getsockname()[1], protocol)
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        page = MetricsPage(Metrics(), states=list, pools=list)
        server = front_server(ManagerApp(_api(front), _gateway(front), None, page), [listener], protocol, https)
        front.connections = server.server_state.connections
        await server.start()
        ready.set()
        await stop.wait()
        await server.stop(grace=0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for _ in range(3):  # connections that were cut are closed in the next turns of the loop
            await asyncio.sleep(0)

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(10)
        yield front
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        listener.close()


def _api(front: Front) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        front.api_calls.append((scope["method"], scope["raw_path"].decode()))
        await PlainTextResponse("api")(scope, receive, send)

    return app


def _gateway(front: Front) -> Gateway:
    tasks: set[asyncio.Task[None]] = set()
    known = {}
    for sandbox_id in SANDBOXES:
        known[sandbox_id] = SimpleNamespace(
            id=sandbox_id,
            uid=sandbox_id,
            protected=False,
            traffic_token=None,
            process=_Program(front, sandbox_id, tasks),
            state=State.RUNNING,
        )
    return Gateway(known.get, AsyncMock(return_value=False), TrafficTokens())  # type: ignore[arg-type]  # what the gateway uses of a sandbox is there


class _Program:
    def __init__(self, front: Front, sandbox_id: str, tasks: set[asyncio.Task[None]]) -> None:
        self._front = front
        self._sandbox_id = sandbox_id
        self._tasks = tasks
        self.whole_paths: set[int] = set()

    async def connect(self, port: int) -> HttpConnection:
        if port == CLOSED_PORT:
            raise PortClosedError(port)
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)
        task = asyncio.create_task(self._serve(port, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await HttpConnection.on(ours)

    def keep(self, port: int, connection: HttpConnection) -> None:
        connection.transport.close()

    async def _serve(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrival = Arrival(self._sandbox_id, port)
        self._front.arrivals.append(arrival)
        script = self._front.answers.get(port)
        try:
            while arrival.body is None if script is None else b"\r\n\r\n" not in arrival.data:
                piece = await reader.read(65536)
                if not piece:
                    return
                arrival.data += piece
            for piece in [OK] if script is None else script:
                writer.write(piece)
                await writer.drain()
                arrival.sent += len(piece)
            if script is not None and script and script[-1] == b"":
                return  # an empty piece at the end: the application leaves
            if port in self._front.stops_reading:
                await asyncio.Event().wait()
            while piece := await reader.read(65536):
                arrival.data += piece
        except ConnectionError:
            pass  # the gateway has cut the connection, which `ended` says
        finally:
            arrival.ended = True
            writer.close()


def _unchunked(data: bytes) -> bytes | None:
    body = b""
    while True:
        size_line, end, data = data.partition(b"\r\n")
        if not end:
            return None
        size = int(size_line, 16)
        if len(data) < size + 2:
            return None
        assert data[size : size + 2] == b"\r\n"
        body, data = body + data[:size], data[size + 2 :]
        if size == 0:
            assert not data, data
            return body
