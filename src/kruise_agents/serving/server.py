"""A uvicorn server for use inside a larger program, without uvicorn's main loop and signal handlers.

The manager and the program inside a sandbox run other tasks in the same event loop, and stop the server by a call. An
idle server must cost nothing, but uvicorn's own main loop wakes up ten times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator, Sequence
from typing import Any

import uvicorn

# E2B's clients reuse connections that were idle for up to 300 seconds. A server that closes earlier breaks requests.
KEEP_ALIVE_SECONDS = 650


class Server(uvicorn.Server):
    """A server of one ASGI application on sockets that are already bound."""

    def __init__(self, app: Any, sockets: Sequence[socket.socket], **config: Any) -> None:
        if "http" not in config:
            # Imported here, so that the manager can check the installed uvicorn before.
            from .http_protocol import HttpProtocol

            config["http"] = HttpProtocol
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                ws="none",  # no application uses WebSockets, and the package for them is large
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                **config,
            )
        )
        self._bound = list(sockets)
        self._stop = asyncio.Event()
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self.serve(sockets=self._bound))
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if not self._ready.is_set():
            await self._task

    async def stop(self, grace: float = 0.3) -> None:
        """Stop accepting connections, wait up to ``grace`` seconds for requests, and cancel requests that still run."""
        self.config.timeout_graceful_shutdown = grace  # type: ignore[assignment]  # a float works too
        self._stop.set()
        if self._task is not None:
            await self._task

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready.set()

    async def main_loop(self) -> None:
        """Wait for :meth:`stop`. uvicorn's own main loop would wake up ten times a second."""
        await self.on_tick(0)
        await self._stop.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the program around this server."""
        yield
