"""The service ``filesystem.Filesystem``."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from pathlib import Path
from typing import Any

from ...connect import Call, Code, ConnectError, ConnectService, Json, Message, Method, ServerStream, Unary
from ..files import folders
from ..listing import walk
from ..paths import PathError, resolve, without_trailing_slashes
from ..system_errors import describe, reason
from ..users import User, Users
from ..watch import WatchService
from .entries import entry
from .removal import remove


class FilesystemService:
    """The methods of the service; paths are read for the user that the call names."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._watches = WatchService(
            lambda request, call: self._path(request, "path", call), lambda path: entry(path, users)
        )

    def close(self) -> None:
        """Watch nothing any more."""
        self._watches.close()

    def app(self) -> ConnectService:
        """The ASGI application, to be mounted on ``/filesystem.Filesystem``."""
        methods: dict[str, Method] = {
            "Stat": Unary(self.stat),
            "ListDir": Unary(self.list_folder),
            "MakeDir": Unary(self.make_folder),
            "Move": Unary(self.move),
            "Remove": Unary(self.remove),
            "WatchDir": ServerStream(self._watches.watch),
            "CreateWatcher": Unary(self._watches.create),
            "GetWatcherEvents": Unary(self._watches.events),
            "RemoveWatcher": Unary(self._watches.remove),
        }
        return ConnectService(methods, check=self._users.of_call)

    async def stat(self, request: Message, call: Call) -> Json:
        """``Stat``."""
        return {"entry": self._entry(self._path(request, "path", call))}

    async def list_folder(self, request: Message, call: Call) -> Json:
        """``ListDir``."""
        path = self._path(request, "path", call)
        depth = request.uint32("depth") or 1
        _require_folder(path)
        try:
            # In a thread: a deep tree takes long, and streams must go on meanwhile.
            return {"entries": await asyncio.to_thread(self._entries_below, path, depth)}
        except OSError as error:
            raise _denied_or_internal(f"error reading directory: {describe('open', path, error)}", error) from error

    async def make_folder(self, request: Message, call: Call) -> Json:
        """``MakeDir``."""
        path = self._path(request, "path", call)
        try:
            mode = _mode(path)
        except FileNotFoundError:
            if not _is_link(path):
                _ensure(Path(path), self._users.of_call(call))
                return {"entry": self._entry(path)}
            mode = stat.S_IFLNK  # it leads nowhere
        except OSError as error:
            raise _internal(f"error getting file info: {describe('stat', path, error)}") from error
        if stat.S_ISDIR(mode):
            raise ConnectError(Code.ALREADY_EXISTS, f"directory already exists: {path}")
        raise ConnectError(Code.INVALID_ARGUMENT, f"path already exists but it is not a directory: {path}")

    async def move(self, request: Message, call: Call) -> Json:
        """``Move``."""
        # A trailing slash would have Linux refuse a link to a folder, instead of moving it.
        source = without_trailing_slashes(self._path(request, "source", call))
        destination = self._path(request, "destination", call)
        _ensure(Path(destination).parent, self._users.of_call(call))
        try:
            os.rename(source, destination)  # noqa: PTH104  # a plain system call, no file is read
        except FileNotFoundError as error:
            text = f"source file not found: {describe('rename', source, error)}"
            raise ConnectError(Code.NOT_FOUND, text) from error
        except OSError as error:
            raise _internal(f"error renaming: rename {source} {destination}: {reason(error)}") from error
        return {"entry": self._entry(destination)}

    async def remove(self, request: Message, call: Call) -> Json:
        """``Remove``."""
        path = self._path(request, "path", call)
        try:
            await asyncio.to_thread(remove, path)
        except OSError as error:
            text = f"error removing file or directory: {describe('unlinkat', path, error)}"
            raise _internal(text) from error
        return {}

    def _path(self, request: Message, field: str, call: Call) -> str:
        try:
            return resolve(request.text(field), self._users.of_call(call))
        except PathError as error:
            raise ConnectError(Code.INVALID_ARGUMENT, str(error)) from error

    def _entry(self, path: str) -> dict[str, Any]:
        try:
            return entry(path, self._users)
        except (FileNotFoundError, NotADirectoryError) as error:
            text = f"file not found: {describe('lstat', path, error)}"
            raise ConnectError(Code.NOT_FOUND, text) from error
        except OSError as error:
            raise _internal(f"error getting file info: {describe('lstat', path, error)}") from error

    def _entries_below(self, path: str, depth: int) -> list[dict[str, Any]]:
        found = []
        for below in walk(path, depth):
            try:
                found.append(entry(below, self._users))
            except OSError:
                continue  # it has vanished
        return found


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
            text = f"path not found: {describe('lstat', path, error)}"
            raise ConnectError(Code.NOT_FOUND, text) from error
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


def _internal(text: str) -> ConnectError:
    return ConnectError(Code.INTERNAL, text)
