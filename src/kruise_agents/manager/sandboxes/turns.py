"""Operations on one sandbox take turns, in the order in which they came, and go on when their caller leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from .lifecycle import Event, RefusedError
from .sandbox import Sandbox

_CLOSE_SECONDS = 5.0


class Turns:
    """Everything that is under way in one manager."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, sandbox: Sandbox, event: Event, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``work`` when it is its turn.

        Parameters:
            event: what it is, for the refusal.

        Raises:
            RefusedError: the sandbox was, or is being, ended.
        """

        async def run() -> None:
            async with sandbox.lock:
                if sandbox.state.ending:
                    raise RefusedError(sandbox.state, event)
                await work()

        if sandbox.state.ending:
            raise RefusedError(sandbox.state, event)
        task = self.go(run())
        sandbox.work.add(task)
        task.add_done_callback(sandbox.work.discard)
        # An error reaches the caller; when that has left, nobody else wants to know.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise RefusedError(sandbox.state, event) from None
            raise

    def go(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` now, whoever waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Return when nothing is under way; what takes long is cancelled."""
        if self._tasks:
            _, stuck = await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
            for task in stuck:
                task.cancel()
