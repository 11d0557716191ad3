"""Noticing that a sandbox's program has ended by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .sandbox import Sandbox


class Exits:
    """One waiting task for each program.

    Parameters:
        ended: called with the sandbox whose program has ended.
    """

    def __init__(self, ended: Callable[[Sandbox], None]) -> None:
        self._ended = ended
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def watch(self, sandbox: Sandbox) -> None:
        """Wait for the end of its present program, and no other."""
        self.leave(sandbox)
        self._tasks[sandbox.id] = asyncio.create_task(self._wait(sandbox))

    def leave(self, sandbox: Sandbox) -> None:
        """Wait no more: it is about to be ended on purpose."""
        if task := self._tasks.pop(sandbox.id, None):
            task.cancel()

    async def close(self) -> None:
        """Wait for none of them any more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait(self, sandbox: Sandbox) -> None:
        await sandbox.program.ended()
        self._tasks.pop(sandbox.id, None)
        self._ended(sandbox)
