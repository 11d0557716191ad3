"""Putting the content of one upload into its file."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from .. import disk_space as space
from ..http_errors import HttpError
from ..paths import base_name, displayable
from ..system_errors import NO_SPACE, describe
from ..users import User
from . import folders, metadata
from .spool import Piece

_FILE_MODE = 0o644
# Non-blocking, for named pipes that take the place of a file: nobody may be at the other end.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK

_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


async def write_file(path: str, content: Piece, user: User, attributes: Mapping[str, str]) -> dict[str, Any]:
    """Create or overwrite a file; the item of the response.

    The order (open with truncation, change of owner, content, metadata) is the one that watchers of the folder
    see as events. Several writers of one file take turns, so that it never is a mixture.

    Raises:
        HttpError: it cannot be written.
    """
    async with _turns.setdefault(_place(path), asyncio.Lock()):
        return await _write(path, content, user, attributes)


def _place(path: str) -> str:
    """The same for every spelling of a path; as it is where links may not be read, as in others' ``/proc``."""
    try:
        return os.path.realpath(path)
    except OSError:
        return path


async def _write(path: str, content: Piece, user: User, attributes: Mapping[str, str]) -> dict[str, Any]:
    try:
        folders.ensure(Path(path).parent, user)
        _refuse_pipes(path)
        space.require_for_file(path, content.size)
        descriptor = os.open(path, _FLAGS, _FILE_MODE)
    except folders.NotAFolderError as error:
        raise HttpError(500, f"error ensuring directories: {error}") from error
    except IsADirectoryError:
        raise HttpError(400, f"path is a directory: {path}") from None
    except OSError as error:
        if error.errno in NO_SPACE:
            raise space.full(path, content.size) from error
        raise HttpError(500, f"error opening file: {describe('open', path, error)}") from error
    try:
        user.own(descriptor)
        await content.copy_to(descriptor)
        stored = _tagged(path, descriptor, attributes)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise space.no_space(content.size) from error
        raise HttpError(500, f"error writing file: {describe('write', path, error)}") from error
    finally:
        os.close(descriptor)
    # Only when there is some: SDKs before 2.28 know the three keys of a file and fail on any other.
    return {**described(path), "metadata": stored} if stored else described(path)


def _tagged(path: str, descriptor: int, attributes: Mapping[str, str]) -> dict[str, str]:
    try:
        return metadata.replace(descriptor, attributes)
    except OSError as error:
        if error.errno in NO_SPACE:  # ext4 has one block for all attributes of a file, and needs a part of it itself
            raise HttpError(507, f"not enough space for the metadata of {path} on its file system") from error
        raise


def described(path: str) -> dict[str, Any]:
    """A file in a response of ``/files``."""
    return {"path": displayable(path), "name": displayable(base_name(path)), "type": "file"}


def _refuse_pipes(path: str) -> None:
    """Named pipes and sockets, before they are opened: a reader of a pipe would take that for its end."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  # a plain system call
    except FileNotFoundError:
        return
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        raise HttpError(400, f"path is not a regular file: {path}")
