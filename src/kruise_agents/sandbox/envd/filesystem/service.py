"""The service ``filesystem.Filesystem``."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from ...connect import Call, Code, ConnectError, ConnectService, Json, Message, Method, ServerStream, Unary
from ..errors import describe, reason
from ..files import folders
from ..paths import PathError, resolve, without_trailing_slashes
from ..users import User, Users
from ..watch import WatchService
from .entries import entry
from .removal import remove

_FEW = 250
"""How many entries are described on the event loop, in one or two milliseconds. A thread is slower for so few."""


class FilesystemService:
    """The methods of the service. Relative paths start at the home of the user that a call acts as."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._watches = WatchService(
            lambda request, call: self._path(request, "path", call), lambda path: entry(path, users.names())
        )

    def close(self) -> None:
        self._watches.close()

    def app(self) -> ConnectService:
        methods: dict[str, Method] = {
            "Stat": Unary(self._stat),
            "ListDir": Unary(self._list_folder),
            "MakeDir": Unary(self._make_folder),
            "Move": Unary(self._move),
            "Remove": Unary(self._remove),
            "WatchDir": ServerStream(self._watches.watch),
            "CreateWatcher": Unary(self._watches.create),
            "GetWatcherEvents": Unary(self._watches.events),
            "RemoveWatcher": Unary(self._watches.remove),
        }
        return ConnectService(methods, check=self._users.of_call)

    async def _stat(self, request: Message, call: Call) -> Json:
        return {"entry": self._entry(self._path(request, "path", call))}

    async def _list_folder(self, request: Message, call: Call) -> Json:
        path = self._path(request, "path", call)
        depth = request.uint32("depth") or 1
        _require_folder(path)
        try:
            if depth == 1:
                with suppress(_ManyEntriesError):
                    return {"entries": self._entries_below(path, depth, _FEW)}
            # In a thread, because a large tree takes long and other calls must go on.
            return {"entries": await asyncio.to_thread(self._entries_below, path, depth)}
        except OSError as error:
            raise _denied_or_internal(f"error reading directory: {describe('open', path, error)}", error) from error

    async def _make_folder(self, request: Message, call: Call) -> Json:
        path = self._path(request, "path", call)
        try:
            mode = _mode(path)
        except FileNotFoundError:
            if not _is_link(path):
                _ensure(Path(path), self._users.of_call(call))
                return {"entry": self._entry(path)}
            mode = stat.S_IFLNK  # a broken link
        except OSError as error:
            raise _internal(f"error getting file info: {describe('stat', path, error)}") from error
        if stat.S_ISDIR(mode):
            raise ConnectError(Code.ALREADY_EXISTS, f"directory already exists: {path}")
        raise ConnectError(Code.INVALID_ARGUMENT, f"path already exists but it is not a directory: {path}")

    async def _move(self, request: Message, call: Call) -> Json:
        # With a trailing slash, Linux would refuse a link to a folder instead of moving it.
        source = without_trailing_slashes(self._path(request, "source", call))
        destination = self._path(request, "destination", call)
        _ensure(Path(destination).parent, self._users.of_call(call))
        try:
            os.rename(source, destination)  # noqa: PTH104  # a plain system call, no file is read
        except FileNotFoundError as error:
            raise _not_found(f"source file not found: {describe('rename', source, error)}") from error
        except OSError as error:
            raise _internal(f"error renaming: rename {source} {destination}: {reason(error)}") from error
        return {"entry": self._entry(destination)}

    async def _remove(self, request: Message, call: Call) -> Json:
        path = self._path(request, "path", call)
        try:
            await asyncio.to_thread(remove, path)
        except OSError as error:
            raise _internal(f"error removing file or directory: {describe('unlinkat', path, error)}") from error
        return {}

    def _path(self, request: Message, field: str, call: Call) -> str:
        try:
            return resolve(request.text(field), self._users.of_call(call))
        except PathError as error:
            raise ConnectError(Code.INVALID_ARGUMENT, str(error)) from error

    def _entry(self, path: str) -> dict[str, Any]:
        try:
            return entry(path, self._users.names())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _not_found(f"file not found: {describe('lstat', path, error)}") from error
        except OSError as error:
            raise _internal(f"error getting file info: {describe('lstat', path, error)}") from error

    def _entries_below(self, path: str, depth: int, most: int | None = None) -> list[dict[str, Any]]:
        found, names = [], self._users.names()
        for below in _walk(path, depth, most):
            try:
                found.append(entry(below, names))
            except OSError:
                continue  # the entry has been removed meanwhile
        return found


class _ManyEntriesError(Exception):
    """A folder has more entries than the event loop has time for."""


def _walk(folder: str, depth: int, most: int | None = None) -> Iterator[str]:
    """Yield the paths below ``folder``, at most ``depth`` levels deep, in byte order, folders before their content.

    Raise _ManyEntriesError if a folder has more than ``most`` entries.
    """
    levels = [_sorted_entries(folder, most)]
    while levels:
        current = next(levels[-1], None)
        if current is None:
            levels.pop()
            continue
        yield current.path
        if len(levels) < depth:
            try:
                if current.is_dir(follow_symlinks=False):
                    levels.append(_sorted_entries(current.path, most))
            except OSError:
                continue  # the folder has vanished, is unreadable, or has a path longer than Linux allows


def _sorted_entries(folder: str, most: int | None) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        found = list(islice(entries, most))
        if next(entries, None) is not None:
            raise _ManyEntriesError
    return iter(sorted(found, key=lambda entry: os.fsencode(entry.name)))


def _mode(path: str) -> int:
    return Path(path).stat().st_mode


def _is_link(path: str) -> bool:
    return Path(without_trailing_slashes(path)).is_symlink()


def _require_folder(path: str) -> None:
    try:
        mode = _mode(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            text = f'cyclic symlink or chain >255 links at "{path}"'
            raise ConnectError(Code.FAILED_PRECONDITION, text) from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise _not_found(f"path not found: {describe('lstat', path, error)}") from error
        raise _denied_or_internal(f"error getting file info: {describe('stat', path, error)}", error) from error
    if not stat.S_ISDIR(mode):
        raise ConnectError(Code.INVALID_ARGUMENT, f"path is not a directory: {path}")


def _ensure(folder: Path, user: User) -> None:
    try:
        folders.ensure(folder, user)
    except folders.NotAFolderError as error:
        raise _internal(str(error)) from error
    except OSError as error:
        raise _internal(f"error creating directory: {describe('mkdir', str(folder), error)}") from error


def _denied_or_internal(text: str, error: OSError) -> ConnectError:
    return ConnectError(Code.PERMISSION_DENIED if isinstance(error, PermissionError) else Code.INTERNAL, text)


def _not_found(text: str) -> ConnectError:
    return ConnectError(Code.NOT_FOUND, text)


def _internal(text: str) -> ConnectError:
    return ConnectError(Code.INTERNAL, text)
