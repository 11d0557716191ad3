"""The answer of ``/execute``, sent line by line while the client is connected."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from .execution import Execution
from .lines import END, KEEPALIVE, Line, encoded

KEEPALIVE_SECONDS = 5.0  # without a line before a keepalive is sent (code interpreter, August 2026)


class ExecutionStream:
    """An ASGI response with the lines of an execution. The execution is abandoned when the client leaves.

    ``running`` holds the tasks of all executions that have not ended. ``keepalives`` must be False for
    e2b-code-interpreter before 2.9.0, which limits an execution by a read time-out: each keepalive would restart it.
    """

    def __init__(self, execution: Execution, running: set[asyncio.Task[None]], *, keepalives: bool) -> None:
        self._execution = execution
        self._running = running
        self._keepalives = keepalives
        self._send: Send | None = None
        self._ended = asyncio.Event()
        self._writing = False
        self._last_write = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._send = send
        self._last_write = asyncio.get_running_loop().time()
        execution = self._execution.start(self.write)
        self._running.add(execution)
        execution.add_done_callback(self._running.discard)
        ends = [asyncio.create_task(_disconnected(receive)), asyncio.create_task(self._ended.wait())]
        helpers = [*ends, asyncio.create_task(self._keep_alive())] if self._keepalives else ends
        try:
            await asyncio.wait([*ends, execution], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._send = None
            if not self._ended.is_set():
                self._execution.abandon()
            for task in helpers:
                task.cancel()

    async def write(self, line: Line) -> None:
        """Send a line, and wait while the client does not read. ``END`` closes the body."""
        if self._send is None:
            return
        self._writing = True
        try:
            more = line is not END
            await self._send({"type": "http.response.body", "body": encoded(line), "more_body": more})
        finally:
            self._writing = False
            self._last_write = asyncio.get_running_loop().time()
        if line is END:
            self._ended.set()

    async def _keep_alive(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            silence = clock() - self._last_write
            if silence >= KEEPALIVE_SECONDS and not self._writing:
                await self.write(KEEPALIVE)
            else:
                await asyncio.sleep(max(KEEPALIVE_SECONDS - silence, 0.1))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
