"""The methods for watches in ``filesystem.Filesystem``: the stream ``WatchDir``, and watchers that clients poll."""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from ...connect import Call, Code, ConnectError, Json, Message
from ...linux.process import libc
from ..errors import describe, reason
from ..keepalive import keepalive_interval
from .source import SharedInotify
from .watch import Watch, is_limit, too_many

_NETWORK_FILE_SYSTEMS = {0x6969, 0xFF534D42, 0xFE534D42, 0x517B, 0x65735546}  # NFS, CIFS, SMB2, SMB, FUSE


class WatchService:
    """All clients' watches. ``path_of`` gives a request's absolute path, and ``entry_of`` gives a path's EntryInfo."""

    def __init__(self, path_of: Callable[[Message, Call], str], entry_of: Callable[[str], dict[str, Any]]) -> None:
        self._path_of = path_of
        self._entry_of = entry_of
        self._source = SharedInotify()
        self._polled: dict[str, Watch] = {}

    def close(self) -> None:
        self._polled.clear()
        self._source.close_all()

    async def watch(self, request: Message, call: Call) -> AsyncGenerator[Json, None]:
        """Serve ``WatchDir``: yield ``start`` when the watch is active, then events, and keepalives after silence."""
        watch = await self._open(request, call)
        interval = keepalive_interval(call)
        try:
            yield {"start": {}}
            while True:
                try:
                    async with asyncio.timeout(interval):
                        await watch.arrived()
                except TimeoutError:
                    yield {"keepalive": {}}
                    continue
                for event in watch.take():
                    yield {"filesystem": event}
        finally:
            self._source.close(watch)

    async def create(self, request: Message, call: Call) -> Json:
        watch = await self._open(request, call)
        watcher_id = f"w{secrets.token_hex(10)}"
        self._polled[watcher_id] = watch
        return {"watcherId": watcher_id}

    async def events(self, request: Message, _call: Call) -> Json:
        """Serve ``GetWatcherEvents``: return all events that the watcher has not returned before."""
        watch = self._find(request)
        self._source.drain()
        return {"events": watch.take()}

    async def remove(self, request: Message, _call: Call) -> Json:
        watch = self._find(request)
        del self._polled[request.text("watcherId")]
        self._source.close(watch)
        return {}

    def _find(self, request: Message) -> Watch:
        watcher_id = request.text("watcherId")
        try:
            return self._polled[watcher_id]
        except KeyError:
            raise ConnectError(Code.NOT_FOUND, f"watcher with id {watcher_id} not found") from None

    async def _open(self, request: Message, call: Call) -> Watch:
        path = self._path_of(request, call)
        _require_folder(path)
        if not request.flag("allowNetworkMounts", False) and _file_system(path) in _NETWORK_FILE_SYSTEMS:
            raise ConnectError(Code.INVALID_ARGUMENT, f"cannot watch path on network filesystem: {path}")
        try:
            return await self._source.open(
                path,
                recursive=request.flag("recursive", False),
                describe=self._entry if request.flag("includeEntry", False) else None,
            )
        except OSError as error:
            if is_limit(error):
                raise too_many(error) from error
            raise ConnectError(Code.INTERNAL, f"error watching path {path}: {reason(error)}") from error

    def _entry(self, path: str) -> dict[str, Any] | None:
        try:
            return self._entry_of(path)
        except OSError:
            return None


def _require_folder(path: str) -> None:
    try:
        is_folder = stat.S_ISDIR(Path(path).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConnectError(Code.NOT_FOUND, f"path {path} not found: {describe('stat', path, error)}") from error
    except OSError as error:
        raise ConnectError(Code.INTERNAL, f"error statting path {path}: {reason(error)}") from error
    if not is_folder:
        raise ConnectError(Code.INVALID_ARGUMENT, f"path {path} not a directory: only directories can be watched")


def _file_system(path: str) -> int | None:
    """Return the number of a path's file system type, or None if ``statfs(2)`` fails."""
    answer = ctypes.create_string_buffer(512)
    if libc.statfs(os.fsencode(path), answer) != 0:
        return None
    return ctypes.c_long.from_buffer(answer).value & 0xFFFFFFFF
