"""Writing of uploaded content to files."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from .. import disk_space
from ..errors import NO_SPACE, HttpError, describe
from ..paths import base_name, displayable
from ..users import User
from . import folders, metadata
from .spool import Piece

_FILE_MODE = 0o644
# Non-blocking, because another program may have just put a named pipe there that no process reads.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


async def write_file(path: str, content: Piece, user: User, attributes: Mapping[str, str]) -> dict[str, Any]:
    """Create or overwrite a file, and return its description for the response.

    Watches of the folder report the steps as events in this order: truncation, change of owner, content, metadata.
    Uploads to one path take turns, so that their contents do not mix in the file.
    """
    async with _locks.setdefault(_real_path(path), asyncio.Lock()):
        return await _write(path, content, user, attributes)


def file_info(path: str) -> dict[str, Any]:
    """Return the description of a file in a response of ``/files`` or ``/files/compose``."""
    return {"path": displayable(path), "name": displayable(base_name(path)), "type": "file"}


def _real_path(path: str) -> str:
    try:
        return os.path.realpath(path)
    except OSError:
        return path  # links may not be read, as in the /proc of other users' processes


async def _write(path: str, content: Piece, user: User, attributes: Mapping[str, str]) -> dict[str, Any]:
    try:
        folders.ensure(Path(path).parent, user)
        replaces = _is_there(path)
        disk_space.require_room_for_file(path, content.size)
        descriptor = os.open(path, _FLAGS, _FILE_MODE)
    except folders.NotAFolderError as error:
        raise HttpError(500, f"error ensuring directories: {error}") from error
    except IsADirectoryError:
        raise HttpError(400, f"path is a directory: {path}") from None
    except OSError as error:
        if error.errno in NO_SPACE:
            raise disk_space.disk_full(path, content.size) from error
        raise HttpError(500, f"error opening file: {describe('open', path, error)}") from error
    try:
        size = os.fstat(descriptor).st_size
        if replaces or size:  # a file may also have come between the two looks
            # Blocks that are written anew at once are kept: a disk may take longer to discard one than for all else.
            os.ftruncate(descriptor, min(size, content.size) if content.in_memory else 0)
        user.own(descriptor)
        await content.copy_to(descriptor)
        stored = _store_metadata(path, descriptor, attributes)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise disk_space.no_space(content.size) from error
        raise HttpError(500, f"error writing file: {describe('write', path, error)}") from error
    finally:
        os.close(descriptor)
    # Empty metadata is left out, because SDKs before 2.28 fail on any key besides the three of ``file_info``.
    return {**file_info(path), "metadata": stored} if stored else file_info(path)


def _store_metadata(path: str, descriptor: int, attributes: Mapping[str, str]) -> dict[str, str]:
    try:
        return metadata.replace(descriptor, attributes)
    except OSError as error:
        if error.errno in NO_SPACE:  # ext4 stores all attributes of a file, and data of its own, in one block
            raise HttpError(507, f"not enough space for the metadata of {path} on its file system") from error
        raise


def _is_there(path: str) -> bool:
    """Return whether a regular file is at ``path``.

    Raise HttpError 400 for a socket or pipe. Closing a pipe after an upload could show its reader an end of file.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  # a plain system call
    except FileNotFoundError:
        return False
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        raise HttpError(400, f"path is not a regular file: {path}")
    return stat.S_ISREG(mode)
