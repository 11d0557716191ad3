"""A folder that a sandbox writes to, and how much is in it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..files.trees import FILE_BYTES

_SECONDS = 1.0
_SHARE = 50
"""Measuring a folder that is not close to its limit may take one part in so many of the time."""


@dataclass(slots=True, eq=False)
class Space:
    """One folder with its limit.

    Parameters:
        folder: measured with all that is in it.
        limit: bytes.
    """

    folder: Path
    limit: int
    used: int = 0
    refused_at: int | None = None
    """Bytes that were in it when writing was refused; None: it is not."""
    _left: tuple[int, int] = (0, 0)
    _measured_at: float = field(default_factory=time.monotonic)
    """In the beginning: many sandboxes end within the first second, and need not be measured."""
    _measured_in: float = 0.0

    def is_due(self) -> bool:
        """Whether it is time to measure.

        Raises:
            FileNotFoundError: it is gone.
        """
        passed = time.monotonic() - self._measured_at
        if passed < max(_SECONDS, 2 * self._measured_in):
            return False
        # Whoever wrote it: no more can have come here than has gone from the disk.
        gone = max(before - now for before, now in zip(self._left, _left(self.folder), strict=True))
        return passed > _SHARE * self._measured_in or 2 * gone > self.limit - self.used

    def measure(self, usage: Callable[[Path], int], hidden: int) -> None:
        """Measure it now.

        Parameters:
            usage: bytes that a folder takes.
            hidden: bytes of files that have no name in it.

        Raises:
            OSError: it could not be measured.
        """
        before = time.monotonic()
        try:
            self._left = _left(self.folder)
            self.used = usage(self.folder) + hidden
        finally:
            self._measured_at = time.monotonic()
            self._measured_in = self._measured_at - before


def _left(folder: Path) -> tuple[int, int]:
    """What the disk still takes: bytes, and as many files, as bytes."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize, facts.f_favail * FILE_BYTES
