"""Timers of sandboxes: for the end time of a running sandbox, and for the end of a paused sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .sandbox import Sandbox, seconds_until

_LONGEST_SECONDS = 86_400.0
"""Longer timers are set in steps, because the event loop's clock stands still while the machine is suspended."""


class Timers:
    """The timers of one manager. ``on_deadline`` is called with each sandbox whose deadline has come."""

    def __init__(self, on_deadline: Callable[[Sandbox], None]) -> None:
        self._on_deadline = on_deadline
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def arm(self, sandbox: Sandbox) -> None:
        self.disarm(sandbox)
        seconds = seconds_until(sandbox.deadline)
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._timers[sandbox.id] = loop.call_later(min(seconds, _LONGEST_SECONDS), self._ring, sandbox)

    def disarm(self, sandbox: Sandbox) -> None:
        if timer := self._timers.pop(sandbox.id, None):
            timer.cancel()

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _ring(self, sandbox: Sandbox) -> None:
        self._timers.pop(sandbox.id, None)
        if seconds_until(sandbox.deadline):
            self.arm(sandbox)  # the timer was one of several steps, or the clock was set back
        elif sandbox.deadline is not None:
            self._on_deadline(sandbox)
