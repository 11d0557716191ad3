"""A folder that a sandbox writes to, with its disk limit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..files.trees import FILE_BYTES

_SECONDS = 1.0
_SHARE = 50  # measuring a folder that is far from its limit takes at most this part of the time


@dataclass(slots=True, eq=False)
class LimitedFolder:
    """A folder whose content must stay within ``limit`` bytes."""

    folder: Path
    limit: int
    used: int = 0
    refused_at: int | None = None  # the bytes in the folder when writing was refused
    _left: tuple[int, int] = (0, 0)
    # Many sandboxes end within the first second, and need not be measured.
    _measured_at: float = field(default_factory=time.monotonic)
    _measured_in: float = 0.0

    def is_due(self) -> bool:
        """Return whether it is time to measure; raises FileNotFoundError if the folder is gone."""
        passed = time.monotonic() - self._measured_at
        if passed < max(_SECONDS, 2 * self._measured_in):
            return False
        # The folder cannot have grown by more than the disk has lost, whoever wrote to it.
        gone = max(before - now for before, now in zip(self._left, _left(self.folder), strict=True))
        return passed > _SHARE * self._measured_in or 2 * gone > self.limit - self.used

    def measure(self, usage: Callable[[Path], int], unnamed: int) -> None:
        """Measure the folder; ``unnamed`` bytes are in open files without a name."""
        before = time.monotonic()
        try:
            self._left = _left(self.folder)
            self.used = usage(self.folder) + unnamed
        finally:
            self._measured_at = time.monotonic()
            self._measured_in = self._measured_at - before


def _left(folder: Path) -> tuple[int, int]:
    # The room on the disk in bytes, and the room for further files, also in bytes.
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize, facts.f_favail * FILE_BYTES
