"""One watch: a folder, perhaps with everything below, and the events that a client has not fetched yet."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable, Iterable
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
        self._waiting: deque[Event] = deque()
        self._arrived = asyncio.Event()

    def start(self) -> None:
        """Arm it.

        Raises:
            OSError: the folder cannot be watched, or there are too many watches; nothing stays armed then.
        """
        try:
            self._attach(ROOT)
            if self._recursive:
                self._look_below(ROOT, is_new=False)
        except OSError:
            self.stop()
            raise

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
        if record.mask & inotify.MOVED_FROM and relative in self._at:
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
        if came_from in self._at and self._is_at(relative, came_from):
            self._moved(came_from, relative)
        elif relative not in self._at or not self._is_at(relative, relative):
            try:
                # What was moved in from outside is not new, only here.
                self._attach_tree(relative, is_new=record.mask & inotify.CREATE != 0 or came_from is not None)
            except OSError as error:
                self.fail(too_many(error))

    def _moved(self, old: str, new: str) -> None:
        for relative in [one for one in self._at if one == old or one.startswith(old + "/")]:
            descriptor = self._at.pop(relative)
            moved = new + relative[len(old) :]
            self._folders[descriptor].relative = moved
            self._at[moved] = descriptor

    def _attach_tree(self, relative: str, *, is_new: bool) -> None:
        """Attach a folder and those below.

        Raises:
            OSError: there are too many watches. A folder that cannot be read or has vanished is left out.
        """
        try:
            self._attach(relative)
        except OSError as error:
            if is_limit(error):
                raise
            return
        self._look_below(relative, is_new=is_new)

    def _look_below(self, relative: str, *, is_new: bool) -> None:
        """Attach the folders in a folder that was just attached; report what came into a new one too early to be seen.

        The kernel reports what is made from then on. An entry whose first waiting record is its creation will be
        reported, and attached, by that; for all others this is the only chance.
        """
        descriptor = self._at[relative]
        try:
            with os.scandir(self._absolute(relative)) as entries:
                # Their content before the records: what is written in between has one of those.
                found = sorted(((one, _has_content(one)) for one in entries), key=lambda pair: pair[0].name)
        except OSError:
            return
        first: dict[str, int] = {}
        written = set()
        for record in self._source.peek():
            if record.descriptor == descriptor and record.name:
                first.setdefault(record.name, record.mask)
                if record.mask & inotify.MODIFY:
                    written.add(record.name)
        for one, has_content in found:
            if first.get(one.name, 0) & _APPEARED:
                continue
            name = _join(relative, one.name)
            if is_new:
                self._report(inotify.CREATE, name)
                if has_content and one.name not in written:
                    self._report(inotify.MODIFY, name)
            if one.is_dir(follow_symlinks=False):
                self._attach_tree(name, is_new=is_new)

    def _attach(self, relative: str) -> None:
        path = self._absolute(relative)
        descriptor = self._source.attach(self, path, follow=relative == ROOT)
        own = os.stat(path)  # noqa: PTH116 - a plain system call
        known = self._folders.get(descriptor)
        if known is not None:
            self._at.pop(known.relative, None)
        self._folders[descriptor] = _Folder(relative, (own.st_dev, own.st_ino))
        self._at[relative] = descriptor

    def _detach_tree(self, relative: str) -> None:
        for one in [one for one in self._at if one == relative or one.startswith(relative + "/")]:
            descriptor = self._at[one]
            self._forget(descriptor)
            self._source.detach(self, descriptor)

    def _forget(self, descriptor: int) -> None:
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
