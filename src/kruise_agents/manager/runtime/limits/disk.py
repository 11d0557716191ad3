"""The disk limit of a folder that a sandbox writes to, and the times to measure the folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..files.trees import FILE_BYTES

_SECONDS = 1.0  # between two measurements, at least
_SHARE = 50  # a folder that is far from its limit is measured for at most 1/50 of the time


@dataclass(slots=True, eq=False)
class LimitedFolder:
    """A folder whose content must stay within ``limit`` bytes."""

    folder: Path
    limit: int
    used: int = 0
    refused_at: int | None = None  # the bytes in the folder when the watchdog began to refuse writing; None: allowed
    _left: tuple[int, int] = (0, 0)
    # The first measurement comes after a second: many sandboxes end before that.
    _measured_at: float = field(default_factory=time.monotonic)
    _measured_in: float = 0.0

    def is_due(self) -> bool:
        """Return whether to measure the folder now. May raise FileNotFoundError if the folder is gone."""
        passed = time.monotonic() - self._measured_at
        if passed < max(_SECONDS, 2 * self._measured_in):
            return False
        # Unless others freed space meanwhile, the folder cannot have grown by more than the disk has lost.
        gone = max(before - now for before, now in zip(self._left, _left(self.folder), strict=True))
        return passed > _SHARE * self._measured_in or 2 * gone > self.limit - self.used

    def measure(self, usage: Callable[[Path], int], unnamed: int) -> None:
        """Set ``used`` to ``usage(self.folder)`` plus ``unnamed``, the bytes of the sandbox's open nameless files."""
        before = time.monotonic()
        try:
            self._left = _left(self.folder)
            self.used = usage(self.folder) + unnamed
        finally:
            self._measured_at = time.monotonic()
            self._measured_in = self._measured_at - before


def _left(folder: Path) -> tuple[int, int]:
    # Return the free bytes of the disk, and its room for further files, as bytes too.
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize, facts.f_favail * FILE_BYTES
