"""The two things that end a sandbox from inside: the end of its manager, until it is claimed, and then its end time.

Claimed sandboxes outlive their manager, others do not. So the program inherits the read end of a pipe whose other end
only the manager holds, and ends at the end of that pipe. From ``INIT`` on, the end time counts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

GRACE_SECONDS = 2.0
"""Seconds of inaction after the end time: the manager acts first, and a new end time may be on its way."""
_FROZEN_SECONDS = 1.0
"""A timer that is late by this much was frozen with everything else."""


class ParentPipe:
    """Calls ``end`` when the manager goes away, from :meth:`watch` to :meth:`close`. Owns the pipe's read end."""

    def __init__(self, descriptor: int, end: Callable[[], None]) -> None:
        self._descriptor: int | None = descriptor
        self._end = end

    def watch(self) -> None:
        """Begin to watch. A manager that has gone away already is noticed too."""
        assert self._descriptor is not None
        asyncio.get_running_loop().add_reader(self._descriptor, self._end)

    def close(self) -> None:
        """Go on without the manager. May be called twice."""
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


class EndTimer:
    """Calls ``end`` when the end time that was set last, and a grace period after it, have passed."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float | None) -> None:
        """Replace the end time: seconds from now, or None for never."""
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
            self._arm(GRACE_SECONDS)  # the manager, which thawed the sandbox, is about to set the end time that counts
        else:
            self._end()
