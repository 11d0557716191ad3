"""Linux's inotify interface: watch descriptors and records."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ...linux.process import libc

MODIFY = 0x2
ATTRIB = 0x4
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
UNMOUNT = 0x2000
OVERFLOW = 0x4000
IGNORED = 0x8000
ONLY_FOLDERS = 0x1000000
DONT_FOLLOW = 0x2000000
IS_FOLDER = 0x40000000

_WATCHED = MODIFY | ATTRIB | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF | ONLY_FOLDERS
_HEADER = struct.Struct("iIII")
_BUFFER = 256 * 1024


@dataclass(frozen=True, slots=True)
class Record:
    """An inotify event, here called a record. ``name`` is the name of an entry in the watched folder, or empty."""

    descriptor: int
    mask: int
    cookie: int
    name: str


class Inotify:
    """An inotify instance. The constructor raises OSError EMFILE if this user may have no more instances."""

    def __init__(self) -> None:
        self.fd = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def add(self, path: str, *, follow: bool) -> int:
        """Watch a folder and return the watch descriptor. Raise OSError ENOSPC at the system's limit of watches."""
        mask = _WATCHED if follow else _WATCHED | DONT_FOLLOW
        return _checked(libc.inotify_add_watch(self.fd, os.fsencode(path), ctypes.c_uint32(mask)))

    def remove(self, descriptor: int) -> None:
        """Remove a watch. A watch that the kernel has already removed is no error."""
        libc.inotify_rm_watch(self.fd, descriptor)

    def read(self) -> list[Record]:
        records: list[Record] = []
        while True:
            try:
                data = os.read(self.fd, _BUFFER)
            except BlockingIOError:
                return records
            records += _parse(data)

    def close(self) -> None:
        os.close(self.fd)


def _parse(data: bytes) -> Iterator[Record]:
    offset = 0
    while offset < len(data):
        descriptor, mask, cookie, length = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        yield Record(descriptor, mask, cookie, os.fsdecode(data[offset : offset + length].rstrip(b"\0")))
        offset += length


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number))
    return result
