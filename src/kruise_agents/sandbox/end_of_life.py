"""What ends a sandbox from inside: the leash, until somebody has taken it, and its end time after that.

Sandboxes outlive their manager. One that nobody has learned of must not, so the program inherits the read end of a pipe
whose other end only the manager holds; its end of file ends the program. From ``POST /init`` on the end time counts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

GRACE_SECONDS = 2.0
"""How long after the end time nothing happens yet: the manager acts first, and a new end time may be on its way."""
_FROZEN_SECONDS = 1.0
"""A timer that is late by this much was frozen with everything else."""


class Leash:
    """Calls ``end`` when the manager goes away, from :meth:`hold` to :meth:`drop`.

    Parameters:
        descriptor: the read end of the pipe; owned.
        end: ends everything in the sandbox.
    """

    def __init__(self, descriptor: int, end: Callable[[], None]) -> None:
        self._descriptor: int | None = descriptor
        self._end = end

    def hold(self) -> None:
        """Begin to watch; a manager that went away before is noticed too."""
        assert self._descriptor is not None
        asyncio.get_running_loop().add_reader(self._descriptor, self._end)

    def drop(self) -> None:
        """Go on without the manager. May be called twice."""
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


class EndTime:
    """Calls ``end`` when the time that was set last has passed, and a grace period with it."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float | None) -> None:
        """Replace the end time.

        Parameters:
            seconds: from now; None: never.
        """
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
            self._arm(GRACE_SECONDS)  # whoever thawed us is about to say what counts now
        else:
            self._end()
