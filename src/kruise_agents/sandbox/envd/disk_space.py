"""Disk space of a sandbox: checks for room before files are written, and measurement of the space in use."""

from __future__ import annotations

import os
import posixpath
import re
import stat
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import HttpError
from .files.spool import IN_MEMORY

_BLOCK = 512  # bytes in a unit of ``st_blocks``
_CACHE_SECONDS = 1.0
# A measurement is reused for ``_CACHE_SECONDS`` or, if that is longer, for this many times its own duration.
_CACHE_FACTOR = 20


def no_space(size: int) -> HttpError:
    """Return the error for a disk without room for ``size`` bytes."""
    return HttpError(507, f"attempted to write {size} bytes: not enough disk space available")


def disk_full(path: str, size: int) -> HttpError:
    """Return the error for a disk that refused ``size`` bytes at ``path``. The text names inodes if none are left."""
    disk = _disk(path)
    return _no_inodes() if disk is not None and _out_of_inodes(disk[1]) else no_space(size)


def has_room(path: str, size: int) -> bool:
    """Return True if ``size`` bytes fit at ``path``, or if the free space is unknown (``path`` may be a device)."""
    disk = _disk(path)
    return disk is None or _has_room(disk[1], size)


def require_room_for_file(path: str, size: int) -> None:
    """Raise HttpError 507 if a file of ``size`` bytes does not fit at ``path``. Call this before the file is opened."""
    disk = _disk(path)
    if disk is None:
        return
    if not _has_room(disk[1], size):
        raise no_space(size)
    if _out_of_inodes(disk[1]) and not os.path.lexists(path):
        raise _no_inodes()


def require_room_for_body(length: int, target: str | None) -> None:
    """Raise HttpError 507 if a body of ``length`` bytes cannot be stored. Call this before the body is read.

    A body larger than :data:`.spool.IN_MEMORY` needs room twice, in a temporary file and at ``target``. A smaller body
    is not checked here. ``target`` is None if only the body names the file; then only the temporary file is checked.
    """
    if length <= IN_MEMORY:
        return
    wanted: defaultdict[int, int] = defaultdict(int)
    available: dict[int, int] = {}
    for place in (target, tempfile.gettempdir()):
        if place is not None and (disk := _disk(place)) is not None:
            device, facts = disk
            wanted[device] += length
            available[device] = _available(facts)
    if any(wanted[device] > available[device] for device in wanted):
        raise no_space(length)


class DiskUsage:
    """The space that a sandbox's own files take.

    Files count as in ``du -x``, but bind mounts are left out, because they may be read-only folders of the machine.
    ``du`` itself is not used, because a sandbox may be at its limit of processes.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._lock = threading.Lock()
        self._used = 0
        self._due = 0.0

    def used(self) -> int:
        """Return the bytes on disk of the folders and their content. Deleted files that are still open do not count."""
        with self._lock:
            began = time.monotonic()
            if began >= self._due:
                self._used = sum(_sizes(self._folders))
                ended = time.monotonic()
                self._due = ended + max(_CACHE_SECONDS, _CACHE_FACTOR * (ended - began))
            return self._used

    def size(self) -> int:
        """Return the total size in bytes of the file systems that the folders are on."""
        file_systems = {folder.stat().st_dev: os.statvfs(folder) for folder in self._folders}
        return sum(facts.f_blocks * facts.f_frsize for facts in file_systems.values())


def _disk(path: str) -> tuple[int, os.statvfs_result] | None:
    """Return the device number and ``statvfs`` figures of the disk that holds, or will hold, the file at ``path``."""
    place = path
    while True:
        try:
            facts = os.stat(place)  # noqa: PTH116  # a plain system call, as each upload takes two
            if stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode):
                disk = os.statvfs(place)
                return (facts.st_dev, disk) if disk.f_blocks else None
        except FileNotFoundError:
            parent = posixpath.dirname(place.rstrip("/"))
            if parent == place:
                return None
            place = parent
        except OSError:
            return None  # opening the file will say what is wrong
        else:
            return None  # a device or a pipe


def _has_room(disk: os.statvfs_result, size: int) -> bool:
    # The space of an old file at the path does not count as free: for example, a snapshot may share that space.
    return _available(disk) >= size


def _available(disk: os.statvfs_result) -> int:
    return disk.f_bavail * disk.f_frsize


def _out_of_inodes(disk: os.statvfs_result) -> bool:
    # File systems that make inodes on demand report a total of 0 inodes.
    return bool(disk.f_files) and not disk.f_favail


def _no_inodes() -> HttpError:
    return HttpError(507, "not enough inodes available: 0")


def _sizes(folders: Sequence[Path]) -> Iterator[int]:
    """Yield the bytes on disk of each file and folder. A file with several hard links counts once."""
    elsewhere = _mount_points() - {str(folder) for folder in folders}
    linked: set[tuple[int, int]] = set()
    for top in folders:
        device = top.stat().st_dev
        yield top.stat().st_blocks * _BLOCK
        waiting = [str(top)]
        while waiting:
            for entry, facts in _entries(waiting.pop()):
                if facts.st_dev != device or entry.path in elsewhere:
                    continue
                is_folder = entry.is_dir(follow_symlinks=False)
                if facts.st_nlink > 1 and not is_folder:
                    if (facts.st_dev, facts.st_ino) in linked:
                        continue
                    linked.add((facts.st_dev, facts.st_ino))
                yield facts.st_blocks * _BLOCK
                if is_folder:
                    waiting.append(entry.path)


def _entries(folder: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    yield entry, entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # the entry has just been removed
    except OSError:
        return


def _mount_points() -> set[str]:
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return {re.sub(r"\\([0-7]{3})", _character, line.split(" ")[4]) for line in text.splitlines()}


def _character(octal: re.Match[str]) -> str:
    return chr(int(octal[1], 8))
