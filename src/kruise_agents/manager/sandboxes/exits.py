"""Watchers that notice when a sandbox's program ends by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .sandbox import Sandbox


class Exits:
    """The exit watchers of one manager. ``on_exit`` is called with each sandbox whose program has ended."""

    def __init__(self, on_exit: Callable[[Sandbox], None]) -> None:
        self._on_exit = on_exit
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def watch(self, sandbox: Sandbox) -> None:
        """Watch the program that now runs in a sandbox, and stop watching the sandbox's earlier program, if any."""
        self.unwatch(sandbox)
        self._tasks[sandbox.id] = asyncio.create_task(self._wait(sandbox))

    def unwatch(self, sandbox: Sandbox) -> None:
        if task := self._tasks.pop(sandbox.id, None):
            task.cancel()

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait(self, sandbox: Sandbox) -> None:
        await sandbox.process.ended()
        self._tasks.pop(sandbox.id, None)
        self._on_exit(sandbox)
