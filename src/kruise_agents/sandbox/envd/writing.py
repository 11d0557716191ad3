"""Putting the content of one upload into its file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import folders, metadata
from .http_errors import HttpError
from .paths import base_name, displayable
from .spool import Spool
from .system_errors import describe
from .users import User

_FILE_MODE = 0o644
# Non-blocking, for named pipes that take the place of a file: nobody may be at the other end.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


async def write_file(path: str, spool: Spool, user: User, attributes: Mapping[str, str]) -> dict[str, Any]:
    """Create or overwrite a file; the item of the response.

    The order (open with truncation, change of owner, content, metadata) is the one that watchers of the folder
    see as events.

    Raises:
        HttpError: it cannot be written.
    """
    try:
        folders.ensure(Path(path).parent, user)
        _refuse_pipes(path)
        _require_space(path, spool.size)
        descriptor = os.open(path, _FLAGS, _FILE_MODE)
    except folders.NotAFolderError as error:
        raise HttpError(500, f"error ensuring directories: {error}") from error
    except IsADirectoryError:
        raise HttpError(400, f"path is a directory: {path}") from None
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise _inodes(0) from error
        raise HttpError(500, f"error opening file: {describe('open', path, error)}") from error
    try:
        user.own(descriptor)
        await spool.copy_to(descriptor)
        stored = metadata.replace(descriptor, attributes)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise no_space(spool.size) from error
        raise HttpError(500, f"error writing file: {describe('write', path, error)}") from error
    finally:
        os.close(descriptor)
    written: dict[str, Any] = {"path": displayable(path), "name": displayable(base_name(path)), "type": "file"}
    # Only when there is some: SDKs before 2.28 know the three keys above and fail on any other.
    return {**written, "metadata": stored} if stored else written


def no_space(size: int) -> HttpError:
    """The error for a disk that is too full for ``size`` bytes."""
    return HttpError(507, f"attempted to write {size} bytes: not enough disk space available")


def _refuse_pipes(path: str) -> None:
    """Named pipes and sockets, before they are opened: a reader of a pipe would take that for its end."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  # a plain system call
    except FileNotFoundError:
        return
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        raise HttpError(400, f"path is not a regular file: {path}")


def _require_space(path: str, size: int) -> None:
    disk = os.statvfs(Path(path).parent)
    if disk.f_bavail * disk.f_frsize < size:
        raise no_space(size)
    if disk.f_files and not disk.f_favail and not os.path.lexists(path):
        raise _inodes(0)


def _inodes(available: int) -> HttpError:
    return HttpError(507, f"not enough inodes available: {available}")
