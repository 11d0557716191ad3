"""A watch of a folder, with or without its subfolders, and the events that the client has not fetched yet."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from ...connect import Code, ConnectError
from ..paths import displayable
from . import inotify
from .inotify import Record

MAX_WAITING = 200_000  # events of a client that does not fetch them
ROOT = "."

Event = dict[str, Any]  # a ``FilesystemEvent``: name, type and, if requested, entry
# A function that returns the ``EntryInfo`` of a path, or None for a path that has gone or cannot be examined.
Describe = Callable[[str], "dict[str, Any] | None"]

_TURN_SECONDS = 0.01

# The events of one record are reported in this order.
_EVENTS = (
    (inotify.CREATE | inotify.MOVED_TO, "EVENT_TYPE_CREATE"),
    (inotify.MOVED_FROM | inotify.MOVE_SELF, "EVENT_TYPE_RENAME"),
    (inotify.ATTRIB, "EVENT_TYPE_CHMOD"),
    (inotify.MODIFY, "EVENT_TYPE_WRITE"),
    (inotify.DELETE | inotify.DELETE_SELF, "EVENT_TYPE_REMOVE"),
)
_WITHOUT_ENTRY = ("EVENT_TYPE_REMOVE", "EVENT_TYPE_RENAME")
_APPEARED = inotify.CREATE | inotify.MOVED_TO
_VANISHED = inotify.DELETE | inotify.MOVED_FROM
_CONTENT = ""


class Source(Protocol):
    """The methods that a watch calls on the inotify instance of the sandbox."""

    def attach(self, watch: Watch, path: str, *, follow: bool) -> int:
        """Begin to pass the inotify events of a folder to ``watch``. Return the folder's watch descriptor."""

    def detach(self, watch: Watch, descriptor: int) -> None:
        """Stop sending records of a folder to ``watch``."""

    def peek(self) -> Iterable[Record]:
        """Return the records that no watch has handled yet."""


@dataclass(slots=True)
class _Folder:
    relative: str
    identity: tuple[int, int]


class Watch:
    """The state machine that turns records of ``source`` into events of the folder at the absolute path ``path``.

    ``recursive`` includes all folders below, also folders that are created later. ``describe`` returns the ``entry`` of
    an event, if any. Removals and renames have no ``entry``, and without ``describe`` no event has an ``entry``.
    """

    def __init__(self, source: Source, path: str, *, recursive: bool, describe: Describe | None) -> None:
        self.failure: ConnectError | None = None
        self._source = source
        self._path = path.rstrip("/") or "/"
        self._recursive = recursive
        self._describe = describe
        self._folders: dict[int, _Folder] = {}
        self._at: dict[str, int] = {}
        self._leaving: dict[int, str] = {}
        self._missed: dict[int, dict[str, bool]] = {}
        self._waiting: deque[Event] = deque()
        self._arrived = asyncio.Event()

    async def start(self) -> None:
        """Attach the folder and, if recursive, its tree. A tree can have 100,000 folders, so pause for other tasks."""
        self._attach(ROOT)
        if not self._recursive:
            return
        turn_ends = time.monotonic() + _TURN_SECONDS
        for _ in self._spread(ROOT, is_new=False):
            if time.monotonic() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + _TURN_SECONDS

    def stop(self) -> None:
        for descriptor in list(self._folders):
            self._forget(descriptor)
            self._source.detach(self, descriptor)

    def take(self) -> list[Event]:
        """Remove and return the waiting events. If none are waiting and the watch has failed, raise the failure."""
        if not self._waiting and self.failure is not None:
            raise self.failure
        events = list(self._waiting)
        self._waiting.clear()
        self._arrived.clear()
        return events

    async def arrived(self) -> None:
        """Wait until :meth:`take` would return an event or raise the failure."""
        if not self._waiting and self.failure is None:
            await self._arrived.wait()

    def fail(self, error: ConnectError) -> None:
        """Make the watch add no more events, and make :meth:`take` raise ``error`` once no events are waiting."""
        self.failure = error
        self._arrived.set()

    def handle(self, record: Record) -> None:
        folder = self._folders.get(record.descriptor)
        if folder is None:
            return
        if not record.name:
            self._handle_itself(record, folder)
            return
        relative = _join(folder.relative, record.name)
        if not (self._recursive and record.mask & inotify.IS_FOLDER):
            self._report(record.mask, relative)
            return
        missed_new = record.mask & _VANISHED and self._missed.get(record.descriptor, {}).pop(record.name, False)
        if record.mask & inotify.MOVED_FROM and (relative in self._at or missed_new):
            self._leaving[record.cookie] = relative
        self._report(record.mask, relative)
        if record.mask & _APPEARED:
            self._appeared(relative, record)

    def _handle_itself(self, record: Record, folder: _Folder) -> None:
        if record.mask & (inotify.IGNORED | inotify.UNMOUNT):
            self._forget(record.descriptor)
            self._source.detach(self, record.descriptor)
        elif folder.relative == ROOT:
            self._report(record.mask, ROOT)
        elif record.mask & inotify.MOVE_SELF:
            # This record follows the two records of a rename. If only the first has come, the folder has left the tree.
            for cookie, left in list(self._leaving.items()):
                if left == folder.relative:
                    del self._leaving[cookie]
                    self._detach_tree(left)
        # All else is reported by the records of the parent folder.

    def _appeared(self, relative: str, record: Record) -> None:
        came_from = self._leaving.pop(record.cookie, None) if record.cookie else None
        try:
            if came_from in self._at and self._is_at(relative, came_from):
                self._moved(came_from, relative)
            elif relative not in self._at or not self._is_at(relative, relative):
                # The content of a folder that was moved here from outside is not new, so the content is not reported.
                self._attach_tree(relative, is_new=record.mask & inotify.CREATE != 0 or came_from is not None)
        except OSError as error:
            self.fail(too_many(error))

    def _moved(self, old: str, new: str) -> None:
        moved = self._tree(old)
        descriptors = [self._at.pop(relative) for relative in moved]
        for relative, descriptor in zip(moved, descriptors, strict=True):
            self._folders[descriptor].relative = new + relative[len(old) :]
            self._at[self._folders[descriptor].relative] = descriptor
        for descriptor in descriptors:
            self._catch_up(descriptor)

    def _catch_up(self, descriptor: int) -> None:
        """After a folder was moved, attach those of its subfolders that could not be attached at the old path."""
        for name, is_new in self._missed.pop(descriptor, {}).items():
            relative = self._folders[descriptor].relative
            if name == _CONTENT:
                for _ in self._spread(relative, is_new=is_new):
                    pass
            else:
                self._attach_tree(_join(relative, name), is_new=is_new)

    def _attach_tree(self, relative: str, *, is_new: bool) -> None:
        if self._attach_if_there(relative, is_new=is_new) is not None:
            for _ in self._spread(relative, is_new=is_new):
                pass

    def _spread(self, relative: str, *, is_new: bool) -> Iterator[None]:
        """Attach all folders below an attached folder. Each step reads one folder and attaches the folders in it."""
        # The remaining work is a list of descriptors, because paths may change between two steps.
        remaining = [self._at[relative]]
        while remaining:
            folder = self._folders.get(remaining.pop())
            if folder is not None:
                below = self._look_into(folder.relative, is_new=is_new)
                found = [self._attach_if_there(path, is_new=is_new) for path in below]
                remaining += [descriptor for descriptor in reversed(found) if descriptor is not None]
            yield

    def _look_into(self, relative: str, *, is_new: bool) -> list[str]:
        """Return the paths of the folders in a folder. If the folder is new, report its entries."""
        descriptor = self._at[relative]
        try:
            with os.scandir(self._absolute(relative)) as entries:
                # The sizes are read before the records, so that a write in between has a record.
                found = sorted(
                    ((item, is_new and _has_content(item)) for item in entries), key=lambda pair: pair[0].name
                )
        except OSError:
            self._missed.setdefault(descriptor, {})[_CONTENT] = is_new
            return []
        # The kernel has records only for changes after the folder was attached.
        first: dict[str, int] = {}
        written = set()
        for record in self._source.peek():
            if record.descriptor == descriptor and record.name:
                first.setdefault(record.name, record.mask)
                if record.mask & inotify.MODIFY:
                    written.add(record.name)
        folders = []
        for item, has_content in found:
            if first.get(item.name, 0) & _APPEARED:
                continue  # that record will report and attach the entry
            name = _join(relative, item.name)
            if is_new:
                self._report(inotify.CREATE, name)
                if has_content and item.name not in written:
                    self._report(inotify.MODIFY, name)
            if item.is_dir(follow_symlinks=False):
                folders.append(name)
        return folders

    def _attach_if_there(self, relative: str, *, is_new: bool) -> int | None:
        """Attach a folder and return its descriptor, or None if the folder has vanished or is unreadable."""
        try:
            return self._attach(relative)
        except OSError as error:
            if is_limit(error):
                raise
            # The folder is remembered for ``_catch_up``, because a parent may just have been renamed.
            above, _, name = relative.rpartition("/")
            if (descriptor := self._at.get(above or ROOT)) is not None:
                self._missed.setdefault(descriptor, {})[name] = is_new
            return None

    def _attach(self, relative: str) -> int:
        path = self._absolute(relative)
        descriptor = self._source.attach(self, path, follow=relative == ROOT)
        own = os.stat(path)  # noqa: PTH116 - a plain system call
        known = self._folders.get(descriptor)
        if known is not None:
            self._at.pop(known.relative, None)
        self._folders[descriptor] = _Folder(relative, (own.st_dev, own.st_ino))
        self._at[relative] = descriptor
        return descriptor

    def _detach_tree(self, relative: str) -> None:
        for descriptor in [self._at[path] for path in self._tree(relative)]:
            self._forget(descriptor)
            self._source.detach(self, descriptor)

    def _tree(self, relative: str) -> list[str]:
        return [path for path in self._at if path == relative or path.startswith(relative + "/")]

    def _forget(self, descriptor: int) -> None:
        self._missed.pop(descriptor, None)
        folder = self._folders.pop(descriptor, None)
        if folder is not None and self._at.get(folder.relative) == descriptor:
            del self._at[folder.relative]

    def _is_at(self, relative: str, attached: str) -> bool:
        """Return True if the folder whose last known path is ``attached`` may now be at ``relative``."""
        identity = self._folders[self._at[attached]].identity
        try:
            found = os.lstat(self._absolute(relative))
        except OSError:
            return True  # moved again; later records have the new path
        return (found.st_dev, found.st_ino) == identity

    def _report(self, mask: int, relative: str) -> None:
        for bits, kind in _EVENTS:
            if mask & bits:
                self._put(kind, relative)

    def _put(self, kind: str, relative: str) -> None:
        if self.failure is not None:
            return
        if len(self._waiting) >= MAX_WAITING:
            self.fail(ConnectError(Code.INTERNAL, f"more than {MAX_WAITING} events were not fetched; some were lost"))
            return
        event: Event = {"name": displayable(relative), "type": kind}
        if self._describe is not None and kind not in _WITHOUT_ENTRY:
            entry = self._describe(self._absolute(relative))
            if entry is not None:
                event["entry"] = entry
        self._waiting.append(event)
        self._arrived.set()

    def _absolute(self, relative: str) -> str:
        return self._path if relative == ROOT else str(PurePosixPath(self._path, relative))


def is_limit(error: OSError) -> bool:
    """Return True if an error means that the system permits no more watches or instances."""
    return error.errno in (errno.ENOSPC, errno.EMFILE)


def too_many(error: OSError) -> ConnectError:
    """Return the error to send to the client when the system permits no more watches or inotify instances."""
    return ConnectError(
        Code.RESOURCE_EXHAUSTED,
        f"the system permits no more watches ({(error.strerror or '').lower()}); the host's settings "
        "fs.inotify.max_user_watches and fs.inotify.max_user_instances say how many",
    )


def _join(folder: str, name: str) -> str:
    return name if folder == ROOT else f"{folder}/{name}"


def _has_content(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_file(follow_symlinks=False) and item.stat(follow_symlinks=False).st_size > 0
    except OSError:
        return False
