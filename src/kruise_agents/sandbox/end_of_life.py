"""Two events that end a sandbox: its manager goes away before sending ``INIT``, or its end time passes.

A sandbox outlives its manager only after the control request ``INIT``. Until then the sandbox program watches the read
end of a pipe whose write end only the manager holds, and ends the sandbox when the manager closes the pipe or exits.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

GRACE_SECONDS = 2.0
"""Seconds to wait after the end time, so that a running manager can act first or send a new end time."""
_FROZEN_SECONDS = 1.0
"""A timer that fires more than this many seconds late is taken for a timer that was frozen with the sandbox."""


class ParentPipe:
    """A watcher that calls ``end`` when the manager goes away. The watcher owns the read end of the pipe."""

    def __init__(self, descriptor: int, end: Callable[[], None]) -> None:
        self._descriptor: int | None = descriptor
        self._end = end

    def watch(self) -> None:
        """Start watching. If the manager has gone already, the event loop calls ``end`` soon."""
        assert self._descriptor is not None
        asyncio.get_running_loop().add_reader(self._descriptor, self._end)

    def close(self) -> None:
        """Close the pipe, so that the sandbox may outlive the manager. May be called twice."""
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


class EndTimer:
    """A timer that calls ``end`` :data:`GRACE_SECONDS` after the end time, or later if the sandbox was frozen."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float | None) -> None:
        """Set a new end time, ``seconds`` from now. None: the sandbox has no end time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._arm(seconds + GRACE_SECONDS)

    def _arm(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + seconds
        self._timer = loop.call_later(seconds, self._reached)

    def _reached(self) -> None:
        if asyncio.get_running_loop().time() > self._due + _FROZEN_SECONDS:
            self._arm(GRACE_SECONDS)  # the manager has thawed the sandbox and is about to set a new end time
        else:
            self._end()
