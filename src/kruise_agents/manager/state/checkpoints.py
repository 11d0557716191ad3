"""Checkpoints of the database: its write-ahead log is moved into the file, in a thread of its own.

A durable row is in the file before a client is told of it. So neither a power failure nor a damaged log can lose it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor

from .database import Database

_QUIET_SECONDS = 1.0
_LONGEST_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one database: at once after a durable write, else after a second without writes.

    A database that is written to all the time gets a checkpoint after ten seconds.
    """

    def __init__(self, store: Database) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._timer: asyncio.TimerHandle | None = None
        self._first = self._last = 0.0  # writes since the timer was set, on the event loop's clock
        self._durable = self._settled = 0  # counts of durable writes: all, and those that are in the file
        self._task: asyncio.Task[None] | None = None
        store.on_write = self._on_write

    async def settle(self) -> None:
        """Wait until all durable writes up to now are in the file, or moving them has failed, which is logged."""
        wanted = self._durable
        while self._settled < wanted:
            await asyncio.shield(self._task or self._begin())

    async def close(self) -> None:
        await self.settle()
        self._store.on_write = lambda durable: None
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    def _on_write(self, durable: bool) -> None:
        self._last = asyncio.get_running_loop().time()
        if durable:
            self._durable += 1
            if self._task is None:
                self._begin()
        elif self._timer is None:
            self._first = self._last
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._at_timer)

    def _at_timer(self) -> None:
        due = min(self._last + _QUIET_SECONDS, self._first + _LONGEST_SECONDS)
        if self._task is None and asyncio.get_running_loop().time() >= due:
            self._timer = None
            self._begin()
        else:
            self._set_timer()

    def _begin(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._run())
        return self._task

    async def _run(self) -> None:
        covered = self._durable
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._store.checkpoint)
        except sqlite3.Error as error:
            logger.warning("the last changes are in the write-ahead log of state.db only: %s", error)
        finally:
            self._settled, self._task = covered, None
            if self._durable > covered:
                self._begin()
