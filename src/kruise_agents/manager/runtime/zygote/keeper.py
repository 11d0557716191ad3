"""The keeper of the manager's zygote. It starts a new zygote when the last one has ended."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from .process import Zygote, ZygoteError

_RETRY_SECONDS = 60

logger = logging.getLogger(__name__)


class ZygoteKeeper:
    """The owner of the zygote, who replaces an ended zygote. If :meth:`open` makes no zygote, none is made later."""

    def __init__(self, make: Callable[[], Zygote]) -> None:
        self._make = make
        self._zygote: Zygote | None = None
        self._lock = threading.Lock()
        self._closed = True
        self._retry_at: float | None = None
        self._processors = set[int]()

    def open(self) -> None:
        with self._lock:
            self._closed = False
        self._processors = os.sched_getaffinity(0)
        self._fill()

    def zygote(self) -> Zygote | None:
        """Return the zygote. If no zygote runs now, return None; programs are then started without one."""
        zygote = self._zygote
        if self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._start_filling()
        if zygote is not None and not zygote.alive:
            self.replace(zygote, zygote.last_words())
            return None
        return zygote

    def replace(self, zygote: Zygote, reason: str) -> None:
        """Close a broken zygote, and make another in the background. Has no effect if the zygote was closed before."""
        with self._lock:
            if self._zygote is not zygote:
                return
            self._zygote = None
        logger.warning("the zygote has ended (%s); sandboxes start without one until there is another", reason)
        zygote.close()
        self._start_filling()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.close()

    def _start_filling(self) -> None:
        self._retry_at = None
        threading.Thread(target=self._fill_again, name="zygote", daemon=True).start()

    def _fill_again(self) -> None:
        # A thread inherits its processors. The parent thread may have had those of the sandbox that it was starting.
        os.sched_setaffinity(0, self._processors)
        self._fill()
        if self._zygote is None:
            self._retry_at = time.monotonic() + _RETRY_SECONDS

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
