"""One watch: a folder, perhaps with everything below, and the events that a client has not fetched yet."""

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

MAX_WAITING = 200_000
"""How many events may wait for a client that does not fetch them."""
ROOT = "."

Event = dict[str, Any]
"""``FilesystemEvent``: name, type and, where asked for, entry."""
Describe = Callable[[str], "dict[str, Any] | None"]
"""``EntryInfo`` of a path, or None when there is nothing any more."""

_TURN_SECONDS = 0.01

# In the order in which operations of one record are reported.
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
    """What a watch needs of the inotify instance that it shares with the others."""

    def attach(self, watch: Watch, path: str, *, follow: bool) -> int:
        """Report what happens in the folder to ``watch``. Returns its descriptor."""

    def detach(self, watch: Watch, descriptor: int) -> None:
        """The opposite."""

    def peek(self) -> Iterable[Record]:
        """What has happened and was not handed out yet."""


@dataclass(slots=True)
class _Folder:
    relative: str
    identity: tuple[int, int]


class Watch:
    """Turns records into events.

    Args:
        source: where records come from.
        path: the watched folder, absolute.
        recursive: whether folders below are watched too, also those that are made later.
        describe: makes the ``entry`` of events; None: they have none.
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
        """Arm it; others get their turn meanwhile, for a tree may have a hundred thousand folders.

        Raises:
            OSError: the folder cannot be watched, or there are too many watches.
        """
        self._attach(ROOT)
        if not self._recursive:
            return
        turn_ends = time.monotonic() + _TURN_SECONDS
        for _ in self._spread(ROOT, is_new=False):
            if time.monotonic() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + _TURN_SECONDS

    def stop(self) -> None:
        """Watch no more."""
        for descriptor in list(self._folders):
            self._forget(descriptor)
            self._source.detach(self, descriptor)

    def take(self) -> list[Event]:
        """The events since the last call.

        Raises:
            ConnectError: the watch has failed, and everything that came before was taken.
        """
        if not self._waiting and self.failure is not None:
            raise self.failure
        events = list(self._waiting)
        self._waiting.clear()
        self._arrived.clear()
        return events

    async def arrived(self) -> None:
        """Return when there is something to take."""
        if not self._waiting and self.failure is None:
            await self._arrived.wait()

    def fail(self, error: ConnectError) -> None:
        """End with this error, after the events that wait."""
        self.failure = error
        self._arrived.set()

    def handle(self, record: Record) -> None:
        """Take one record of a folder that this watch has attached."""
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
            # Comes after both halves of a rename. Was there no second half in here, then it has left.
            for cookie, left in list(self._leaving.items()):
                if left == folder.relative:
                    del self._leaving[cookie]
                    self._detach_tree(left)
        # Everything else is reported by the folder above.

    def _appeared(self, relative: str, record: Record) -> None:
        came_from = self._leaving.pop(record.cookie, None) if record.cookie else None
        try:
            if came_from in self._at and self._is_at(relative, came_from):
                self._moved(came_from, relative)
            elif relative not in self._at or not self._is_at(relative, relative):
                # What was moved in from outside is not new, only here.
                self._attach_tree(relative, is_new=record.mask & inotify.CREATE != 0 or came_from is not None)
        except OSError as error:
            self.fail(too_many(error))

    def _moved(self, old: str, new: str) -> None:
        moved = [one for one in self._at if one == old or one.startswith(old + "/")]
        descriptors = [self._at.pop(relative) for relative in moved]
        for relative, descriptor in zip(moved, descriptors, strict=True):
            self._folders[descriptor].relative = new + relative[len(old) :]
            self._at[self._folders[descriptor].relative] = descriptor
        for descriptor in descriptors:
            self._catch_up(descriptor)

    def _catch_up(self, descriptor: int) -> None:
        """Attach what could not be reached by a folder's old name, after it was told the new one."""
        for name, is_new in self._missed.pop(descriptor, {}).items():
            relative = self._folders[descriptor].relative
            if name == _CONTENT:
                for _ in self._spread(relative, is_new=is_new):
                    pass
            else:
                self._attach_tree(_join(relative, name), is_new=is_new)

    def _attach_tree(self, relative: str, *, is_new: bool) -> None:
        """Attach a folder and those below.

        Raises:
            OSError: there are too many watches.
        """
        if self._attach_if_there(relative, is_new=is_new) is not None:
            for _ in self._spread(relative, is_new=is_new):
                pass

    def _spread(self, relative: str, *, is_new: bool) -> Iterator[None]:
        """Attach every folder below one that was just attached, a folder with each step.

        Between the steps any of them may get another name, or leave: what is left to do is kept by descriptors.

        Raises:
            OSError: there are too many watches.
        """
        left = [self._at[relative]]
        while left:
            folder = self._folders.get(left.pop())
            if folder is not None:
                below = self._look_into(folder.relative, is_new=is_new)
                found = [self._attach_if_there(one, is_new=is_new) for one in below]
                left += [descriptor for descriptor in reversed(found) if descriptor is not None]
            yield

    def _look_into(self, relative: str, *, is_new: bool) -> list[str]:
        """The folders in a folder; reports what came into a new one too early to be seen.

        The kernel reports what is made from then on. An entry whose first waiting record is its creation will be
        reported, and attached, by that; for all others this is the only chance.
        """
        descriptor = self._at[relative]
        try:
            with os.scandir(self._absolute(relative)) as entries:
                # Their content before the records: what is written in between has one of those.
                found = sorted(((one, is_new and _has_content(one)) for one in entries), key=lambda pair: pair[0].name)
        except OSError:
            self._missed.setdefault(descriptor, {})[_CONTENT] = is_new
            return []
        first: dict[str, int] = {}
        written = set()
        for record in self._source.peek():
            if record.descriptor == descriptor and record.name:
                first.setdefault(record.name, record.mask)
                if record.mask & inotify.MODIFY:
                    written.add(record.name)
        folders = []
        for one, has_content in found:
            if first.get(one.name, 0) & _APPEARED:
                continue
            name = _join(relative, one.name)
            if is_new:
                self._report(inotify.CREATE, name)
                if has_content and one.name not in written:
                    self._report(inotify.MODIFY, name)
            if one.is_dir(follow_symlinks=False):
                folders.append(name)
        return folders

    def _attach_if_there(self, relative: str, *, is_new: bool) -> int | None:
        """Attach a folder, unless it cannot be read or has vanished: None.

        The one above may just have got another name; then this one is noted for when that is told.

        Raises:
            OSError: there are too many watches.
        """
        try:
            return self._attach(relative)
        except OSError as error:
            if is_limit(error):
                raise
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
        for one in [one for one in self._at if one == relative or one.startswith(relative + "/")]:
            descriptor = self._at[one]
            self._forget(descriptor)
            self._source.detach(self, descriptor)

    def _forget(self, descriptor: int) -> None:
        self._missed.pop(descriptor, None)
        folder = self._folders.pop(descriptor, None)
        if folder is not None and self._at.get(folder.relative) == descriptor:
            del self._at[folder.relative]

    def _is_at(self, relative: str, attached: str) -> bool:
        """Whether the folder that was attached at one place now is at another."""
        identity = self._folders[self._at[attached]].identity
        try:
            found = os.lstat(self._absolute(relative))
        except OSError:
            return True  # gone on already; the records that follow say where to
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
    """Whether the system permits no more watches or instances."""
    return error.errno in (errno.ENOSPC, errno.EMFILE)


def too_many(error: OSError) -> ConnectError:
    """The error for a limit of the system."""
    return ConnectError(
        Code.RESOURCE_EXHAUSTED,
        f"the system permits no more watches ({(error.strerror or '').lower()}); the host's settings "
        "fs.inotify.max_user_watches and fs.inotify.max_user_instances say how many",
    )


def _join(folder: str, name: str) -> str:
    return name if folder == ROOT else f"{folder}/{name}"


def _has_content(one: os.DirEntry[str]) -> bool:
    try:
        return one.is_file(follow_symlinks=False) and one.stat(follow_symlinks=False).st_size > 0
    except OSError:
        return False
