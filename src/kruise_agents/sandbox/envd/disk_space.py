"""Whether a disk has room for what is about to be written, and what is said when it has not."""

from __future__ import annotations

import os
import stat
import tempfile
from collections import defaultdict
from pathlib import Path

from .files.spool import IN_MEMORY
from .http_errors import HttpError


def no_space(size: int) -> HttpError:
    """The error for a disk that is too full for ``size`` bytes."""
    return HttpError(507, f"attempted to write {size} bytes: not enough disk space available")


def full(path: str, size: int) -> HttpError:
    """The error for a disk that has just refused to take something: it has no inodes or no bytes left.

    Args:
        path: of the file that was to be written.
        size: of its content, in bytes.
    """
    disk = _disk(path)
    return _no_inodes() if disk is not None and _out_of_inodes(disk[1]) else no_space(size)


def has_room(path: str, size: int) -> bool:
    """Whether ``size`` bytes fit on the disk of a file.

    What an old file would give back does not count: whether it does is known only when it is gone.
    """
    disk = _disk(path)
    return disk is None or _available(disk[1]) >= size


def require_for_file(path: str, size: int) -> None:
    """Refuse content, already complete, that does not fit; the old file is still as it was.

    Raises:
        HttpError: 507.
    """
    if not has_room(path, size):
        raise no_space(size)
    disk = _disk(path)
    if disk is not None and _out_of_inodes(disk[1]) and not os.path.lexists(path):
        raise _no_inodes()


def require_for_body(length: int, target: str | None) -> None:
    """Refuse a request that cannot be stored before a byte of it is read.

    More than :data:`.spool.IN_MEMORY` waits in a temporary file until it is complete, and so takes its room twice.
    Less is looked at when it is complete.

    Args:
        length: of the body, in bytes.
        target: where its content goes; None when only the body itself says that.

    Raises:
        HttpError: 507.
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


def _disk(path: str) -> tuple[int, os.statvfs_result] | None:
    """The file system on which a path is or will be; None for what is on none, like a device or ``/proc``."""
    for place in (Path(path), *Path(path).parents):
        try:
            facts = place.stat()
            if stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode):
                disk = os.statvfs(place)
                return (facts.st_dev, disk) if disk.f_blocks else None
        except FileNotFoundError:
            continue
        except OSError:
            return None  # opening it will say what is wrong
        return None
    return None


def _available(disk: os.statvfs_result) -> int:
    return disk.f_bavail * disk.f_frsize


def _out_of_inodes(disk: os.statvfs_result) -> bool:
    # File systems that make inodes as they are needed have no number of them.
    return bool(disk.f_files) and not disk.f_favail


def _no_inodes() -> HttpError:
    return HttpError(507, "not enough inodes available: 0")
