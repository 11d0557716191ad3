"""One client that follows a process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

from ...connect import Json
from . import events

_ROOM = 64


class Subscription:
    """A queue of events between a process and one stream.

    Args:
        on_taken: called after each event that the stream takes.
    """

    def __init__(self, on_taken: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_taken = on_taken
        self._queue: deque[Json] = deque()
        self._waiter: asyncio.Future[bool] | None = None
        self._complete = False

    @property
    def full(self) -> bool:
        """Whether the process should be read no further for now."""
        return len(self._queue) >= _ROOM

    def put(self, event: Json) -> None:
        """Add an event; one that comes although the queue is full is kept as well."""
        self._queue.append(event)
        self._wake(True)

    def complete(self, last: Json) -> None:
        """Add the last event."""
        self._complete = True
        self.put(last)

    async def events(self, keepalive: float) -> AsyncGenerator[Json, None]:
        """All events up to the last one, and a keepalive after every ``keepalive`` seconds of silence."""
        while True:
            while self._queue:
                event = self._queue.popleft()
                self._on_taken()
                yield event
            if self._complete:
                return
            if not await self._something_happened(keepalive):
                yield events.KEEPALIVE

    async def _something_happened(self, seconds: float) -> bool:
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake, False)
        try:
            return await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self, by_event: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(by_event)
