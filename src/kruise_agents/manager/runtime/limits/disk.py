"""The disk limits of a sandbox: the folders that it writes to, when to measure them, and what to do above a limit."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..files.layout import Layout
from ..files.trees import FILE_BYTES
from .guard import guarded
from .limits import MIB
from .log_file import shorten
from .processes import Process, unnamed_files

_SECONDS = 1.0  # between two measurements of a folder that cannot be above its limit, or of an idle sandbox
_SHARE = 50  # a folder that cannot be above its limit is measured for at most 1/50 of the time
_PACE = 2  # the least time between two measurements of a busy sandbox, in durations of a measurement
_PACE_WHEN_IDLE = 10
_MOST_FAILURES = 5  # after so many failed measurements in a row, what the disk has lost counts as the sandbox's
_LEEWAY = 64 * MIB  # programs in the middle of writing may still write this much after writing was refused
_MOST_AT_ONCE = 1024 * MIB  # a sandbox that is suddenly so far above its limit, and above twice its limit, is ended

Usage = Callable[[Path], int]  # returns the bytes of a folder on the disk, or raises OSError
logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class LimitedFolder:
    """A folder whose content must stay within ``limit`` bytes."""

    folder: Path
    limit: int
    used: int = 0
    refused_at: int | None = None  # the bytes in the folder when the watchdog began to refuse writing; None: allowed
    lost: int = 0  # bytes that the file system has lost since the measurement: the folder has not grown by more
    grown: int = 0  # ``lost`` as of the last measurement: the folder had grown by no more since the one before
    _left: tuple[int, int] | None = None
    _measured: int | None = None  # ``used`` as of the last measurement that succeeded
    _measured_at: float = 0.0
    _measured_in: float = 0.0
    _failures: int = 0

    def __post_init__(self) -> None:
        self._measured_at = time.monotonic()  # so that the first measurement comes later: many sandboxes end before
        with contextlib.suppress(OSError):  # the looks will tell
            self.look()

    def look(self) -> None:
        """Count the free space lost since the last look. Raises FileNotFoundError if the folder is gone."""
        # What others free hides what a sandbox writes at the same time, so each look counts for itself.
        left = _left(self.folder)
        if self._left is not None:
            self.lost += max(0, *(before - now for before, now in zip(self._left, left, strict=True)))
        self._left = left

    def may_be_over(self) -> bool:
        return self._measured is None or self._measured + self.lost > self.limit

    def is_due(self, *, busy: bool) -> bool:
        """Return whether to measure the folder now. ``busy``: the sandbox has used processor time, or may not write."""
        passed = time.monotonic() - self._measured_at
        if passed < self._measured_in * (_PACE if busy else _PACE_WHEN_IDLE):
            return False
        if self._measured is not None and busy and self.may_be_over():
            return True
        return passed >= _SECONDS and (self.may_be_over() or (busy and passed > _SHARE * self._measured_in))

    def measure(self, usage: Usage, unnamed: int) -> None:
        """Set ``used`` to ``usage(self.folder)`` plus ``unnamed``, the bytes of the sandbox's open nameless files."""
        before = time.monotonic()
        self.look()
        self.grown = self.lost
        try:
            self.used = self._measured = usage(self.folder) + unnamed
            self.lost -= self.grown  # what has been lost meanwhile may have been measured or not
            self._failures = 0
        except FileNotFoundError:
            raise
        except OSError as error:
            # A tree that is changed all the time may evade a measurement, but its sandbox shall not evade the limit.
            self._failures += 1
            if self._failures == 1:
                logger.warning("%s could not be measured: %s", self.folder, error)
            if self._failures >= _MOST_FAILURES:
                self.used = (self._measured or 0) + self.lost
        finally:
            self._measured_at = time.monotonic()
            self._measured_in = self._measured_at - before


class SandboxDisk:
    """The log and the limited folders of one sandbox. ``family`` returns the sandbox's processes at the moment.

    One thread may call :meth:`look` while another is in :meth:`measure`.
    """

    def __init__(
        self, name: str, layout: Layout, measured: Iterable[Path], limit: int, family: Callable[[], list[Process]]
    ) -> None:
        self.folders = [LimitedFolder(path, limit) for path in measured]
        self.active = False  # True: the sandbox was busy since its disk was measured
        self._name = name
        self._own = layout.root
        self._log = layout.log
        self._family = family
        self._refusing = threading.Lock()  # so that no look refuses what a measurement has just allowed

    @property
    def refused(self) -> bool:
        return any(folder.refused_at is not None for folder in self.folders)

    @property
    def is_close(self) -> bool:
        """True: a folder may be above its limit, so the next look should come soon."""
        return any(folder.may_be_over() for folder in self.folders)

    def look(self) -> list[LimitedFolder]:
        """Quickly shorten the log and list folders to measure. If writing is refused, refuse it to new programs too."""
        with guarded(f"the log of sandbox {self._name}"):
            shorten(self._log)
        with self._refusing:
            if self.refused:
                _limit_file_size(self._family(), 0)
        return [folder for folder in self.folders if self._is_due(folder)]

    def measure(self, due: list[LimitedFolder], usage: Usage) -> str | None:
        """Measure folders, and refuse or allow writing. Return the reason if the sandbox is to be ended."""
        was_refused, reasons = self.refused, []
        self.active = self.active and len(due) < len(self.folders)
        family = self._family()
        for folder in due:
            with guarded(f"{folder.folder} of sandbox {self._name}"):
                reasons.append(self._limit(folder, usage, family))
        with self._refusing:
            if self.refused or was_refused:
                # Programs that were started during the measurement are limited too.
                _limit_file_size(self._family(), 0 if self.refused else None)
        if was_refused and not self.refused:
            logger.info("sandbox %s may write again", self._name)
        return next(filter(None, reasons), None)

    def _is_due(self, folder: LimitedFolder) -> bool:
        with guarded(f"{folder.folder} of sandbox {self._name}"):
            folder.look()
            return folder.is_due(busy=self.active or self.refused)
        return False

    def _limit(self, folder: LimitedFolder, usage: Usage, family: Iterable[Process]) -> str | None:
        own = folder.folder == self._own
        folder.measure(usage, unnamed_files(family, folder.folder.stat().st_dev).on_disk if own else 0)
        above, used = folder.used - folder.limit, f"{folder.used // MIB} of {folder.limit // MIB} MiB"
        where = "files" if own else f"files in volume {folder.folder.name}"
        if above <= 0:
            folder.refused_at = None
        elif folder.refused_at is None and min(above, folder.grown) > max(folder.limit, _MOST_AT_ONCE):
            return f"has written {used} of {where} at once"
        elif folder.refused_at is None:
            folder.refused_at = folder.used
            logger.warning("sandbox %s has %s of %s; writing is refused", self._name, used, where)
        elif folder.used > folder.refused_at + _LEEWAY:
            return f"has {used} of {where} and goes on writing"
        return None


def _left(folder: Path) -> tuple[int, int]:
    # Return the free bytes of the disk, with those reserved for root, and its room for further files, as bytes too.
    facts = os.statvfs(folder)
    return facts.f_bfree * facts.f_frsize, facts.f_ffree * FILE_BYTES


def _limit_file_size(family: Iterable[Process], size: int | None) -> None:
    # With None, files may grow up to the hard limit of each process.
    for process in family:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            soft, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            wanted = hard if size is None else size
            if soft != wanted:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (wanted, hard))
