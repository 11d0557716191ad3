"""Keeps a zygote: the first one, and another one when that has ended."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from .process import Zygote, ZygoteError

_PAUSE_SECONDS = 60
"""Until another attempt, when there has been one and no other could be made."""

logger = logging.getLogger(__name__)


class Nursery:
    """Where sandboxes' programs are forked from, while there is something to fork.

    Parameters:
        make: starts a zygote and tries it out. Where it cannot make the first one, none is asked for again.
    """

    def __init__(self, make: Callable[[], Zygote]) -> None:
        self._make = make
        self._zygote: Zygote | None = None
        self._lock = threading.Lock()
        self._closed = True
        self._again_at: float | None = None
        self._processors = set[int]()

    def open(self) -> None:
        """Make the first one."""
        with self._lock:
            self._closed = False
        self._processors = os.sched_getaffinity(0)
        self._fill()

    def zygote(self) -> Zygote | None:
        """The one that can be used now; None: programs have to be started as a whole."""
        zygote = self._zygote
        if self._again_at is not None and time.monotonic() >= self._again_at:
            self._replace()
        if zygote is not None and not zygote.alive:
            self.lost(zygote, zygote.last_words())
            return None
        return zygote

    def lost(self, zygote: Zygote, why: str) -> None:
        """It cannot be used any more: replace it."""
        with self._lock:
            if self._zygote is not zygote:
                return
            self._zygote = None
        logger.warning("the zygote has ended (%s); sandboxes start without one until there is another", why)
        zygote.close()
        self._replace()

    def close(self) -> None:
        """End it; there will be no other one."""
        with self._lock:
            self._closed = True
            zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.close()

    def _replace(self) -> None:
        self._again_at = None
        threading.Thread(target=self._fill_again, name="zygote", daemon=True).start()

    def _fill_again(self) -> None:
        # This thread comes from one that has just taken the processors of a single sandbox.
        os.sched_setaffinity(0, self._processors)
        self._fill()
        if self._zygote is None:
            self._again_at = time.monotonic() + _PAUSE_SECONDS

    def _fill(self) -> None:
        try:
            zygote = self._make()
        except ZygoteError as error:
            logger.warning("no zygote, so that every sandbox imports everything anew: %s", error)
            return
        with self._lock:
            if not self._closed:
                self._zygote = zygote
                return
        zygote.close()
