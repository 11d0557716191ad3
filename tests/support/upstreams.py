"""Programs that stand where the proxy expects its sandbox-manager, with a proxy in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kruise_agents.protocol.domains import Domain
from kruise_agents.proxy.proxy import Proxy, ProxySettings
from kruise_agents.proxy.upstream import Origin

from .managers import MEASURED, RunningManager, started_manager

Handler = Callable[["Arrival"], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Arrival:
    """A request that has reached the upstream, and the connection that brought it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request_line: str
    headers: dict[str, str]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


@dataclass
class Pair:
    """An upstream, the proxy in front of it, and the requests that have arrived."""

    proxy: Proxy
    arrivals: list[Arrival] = field(default_factory=list)

    async def ask(self, request: bytes) -> bytes:
        """Send bytes on a connection of their own, and return what comes until the proxy closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        try:
            writer.write(request)
            return await asyncio.wait_for(reader.read(-1), 20)
        finally:
            writer.close()


def get(path: str, host: str, *lines: str) -> bytes:
    """Return a GET request after whose answer the proxy closes the connection."""
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""]).encode()


async def answer_ok(arrival: Arrival) -> None:
    await arrival.send(OK)


@contextlib.asynccontextmanager
async def proxied(
    handler: Handler = answer_ok, tell: Callable[[str], None] = print, **settings: Any
) -> AsyncIterator[Pair]:
    """Run a proxy in front of a server that calls ``handler`` with each request."""
    arrivals: list[Arrival] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                arrivals.append(Arrival(reader, writer, first, headers))
                await handler(arrivals[-1])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        settings.setdefault("upstream", Origin("http", Domain("127.0.0.1", port)))
        async with Proxy(ProxySettings(**settings), tell) as proxy:
            yield Pair(proxy, arrivals)
        for arrival in arrivals:
            arrival.writer.close()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario, which ends within half a minute."""
    asyncio.run(asyncio.wait_for(scenario, 30))


@dataclass
class RunningProxy:
    """A ``kruise-agents proxy`` as a program of its own."""

    pid: int
    output: str
    port: int
    log: Path

    @property
    def domain(self) -> str:
        return f"localhost:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.domain}"

    def environment(self, api_key: str) -> dict[str, str]:
        """Return the variables that the proxy tells the clients of E2B to set."""
        first, _, _ = self.output.partition("\nOr ")
        return dict(re.findall(r"  export (\w+)=(\S+)", first)) | {"E2B_API_KEY": api_key}

    @property
    def of_connect(self) -> dict[str, str]:
        """The variables for clients that use the proxy as ``HTTPS_PROXY``."""
        _, _, second = self.output.partition("\nOr ")
        return dict(re.findall(r"  export (\w+)=(\S+)", second))


@contextlib.contextmanager
def running_proxy(folder: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[RunningProxy]:
    """Start ``kruise-agents proxy`` on a free port, and end it as Ctrl-C does. Its log is ``folder / "proxy.log"``."""
    command = [sys.executable, "-m", "kruise_agents", "proxy", "--port", "0", "--log-level", "info", *options]
    variables, log = {"HOME": str(folder)} | MEASURED | (environment or {}), folder / "proxy.log"
    with started_manager(command, variables, log=log) as (process, output):
        port = int(output.split("\n", 1)[0].split(" for ")[0].rpartition(":")[2])
        yield RunningProxy(process.pid, output, port, log)


def in_front_of(manager: RunningManager) -> Sequence[str]:
    """Return the options of a proxy in front of a manager."""
    return ["--upstream", f"{manager.scheme}://{manager.domain}"]
