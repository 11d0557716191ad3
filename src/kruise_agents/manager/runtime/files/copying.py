"""A program that copies a file tree of any shape that Linux allows, and that needs nothing but Python.

usage: python -I -S copying.py <folder> <empty folder>

``cp`` fails on trees whose paths are longer than 4096 bytes and, without ``/proc``, on folders that deny their owner
access. This program goes from folder to folder, so no path is ever long. It follows no link, keeps at most a few files
open, and goes on after a failure. It prints a line for each failure, and its exit code is then 1.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HIDDEN = 0  # the device that stands for a file that an overlay hides; everybody may make one
_PIECE = 1 << 20
_MOST_COMPLAINTS = 100
_SHOWN = 100
# Others belong to the file system or to a security module, and are set anew.
_ACCESS, _CAPABILITY = "system.posix_acl_", "security.capability"
_ATTRIBUTES = ("user.", _ACCESS, _CAPABILITY)


@dataclass
class _Level:
    name: str
    found: os.stat_result
    names: list[str]
    lost: bool = False  # it is not in the source tree any more


class Copier:
    """A copy of one tree. ``complaints`` has a line for each thing that was not copied, and no more than a hundred."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._more = 0
        self._levels: list[_Level] = []
        self._source = self._target = self._top = self._root = -1  # the present folders, and the outermost ones
        self._links: tuple[str, int] | None = None  # a folder in the copy, with a name for each file that has several
        self._linked: set[str] = set()
        self._shares_blocks = True

    def copy(self, source: Path, target: Path, names: Iterable[str] | None = None) -> None:
        """Copy a folder, or only ``names`` in it, to an existing, empty folder. Raises OSError if the disk is full."""
        self._source, self._target = os.open(source, _FOLDER), os.open(target, _FOLDER)
        self._root, self._top = os.dup(self._source), os.dup(self._target)
        try:
            top = os.listdir(self._source) if names is None else list(names)  # noqa: PTH208 - no path
            self._levels.append(_Level("", os.fstat(self._source), top))
            while self._levels:
                if self._levels[-1].names:
                    self._entry(self._levels[-1].names.pop())
                else:
                    self._finish(whole=names is None)
        finally:
            for descriptor in (self._source, self._target, self._root, self._top, *(self._links or ())[1:]):
                os.close(descriptor)
        if self._more:
            self.complaints.append(f"and {self._more} more")

    def _entry(self, name: str) -> None:
        try:
            found = os.stat(name, dir_fd=self._source, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                self._enter(name)
            elif found.st_nlink == 1:
                self._copy_one(name, found)
            else:
                self._copy_linked(name, found)
        except FileNotFoundError:
            return  # removed since the folder was read, or not there, although the caller names it
        except OSError as error:
            self._complain(name, error)

    def _enter(self, name: str) -> None:
        source = os.open(name, _FOLDER, dir_fd=self._source)
        try:
            found = os.stat(".", dir_fd=source)  # fails if this user may list the folder, but not enter it
            names = os.listdir(source)  # noqa: PTH208 - no path
            os.mkdir(name, 0o700, dir_fd=self._target)
            target = os.open(name, _FOLDER, dir_fd=self._target)
        except BaseException:
            os.close(source)
            raise
        os.close(self._source)
        os.close(self._target)
        self._source, self._target = source, target
        self._levels.append(_Level(name, found, names))

    def _finish(self, *, whole: bool) -> None:
        """Give the present folder its owner, mode and times, now that nothing more comes into it, and leave it."""
        level = self._levels[-1]
        outermost = len(self._levels) == 1
        if outermost:
            self._remove_links()
        if whole or not outermost:
            try:
                self._describe(self._target, level.found, None if level.lost else self._source)
            except OSError as error:
                self._complain(".", error)
        self._levels.pop()
        if not outermost:
            self._target = _leave(self._target)
            if not level.lost:
                self._source = _leave(self._source)
                if not os.path.samestat(os.fstat(self._source), self._levels[-1].found):
                    self._search()

    def _search(self) -> None:
        """Go to the present folder from the outermost one, because ``..`` led elsewhere. If it was moved, give it up.

        The source then is the innermost folder on the way that is still in its place.
        """
        os.close(self._source)
        self._source = os.dup(self._root)
        for number, level in enumerate(self._levels[1:], 1):
            inner = -1
            with contextlib.suppress(OSError):
                inner = os.open(level.name, _FOLDER, dir_fd=self._source)
            if inner != -1 and os.path.samestat(os.fstat(inner), level.found):
                os.close(self._source)
                self._source = inner
                continue
            if inner != -1:
                os.close(inner)
            for lost in self._levels[number:]:
                lost.lost, lost.names = True, []
            self._complain(".", OSError(errno.ESTALE, "the folder was moved during the copy"))
            return

    def _copy_one(self, name: str, found: os.stat_result) -> None:
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFREG:
            self._copy_file(name)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=self._source), name, dir_fd=self._target)
            self._own(name, found)
            os.utime(name, ns=_times(found), dir_fd=self._target, follow_symlinks=False)
        elif kind in (stat.S_IFIFO, stat.S_IFSOCK) or (kind == stat.S_IFCHR and found.st_rdev == _HIDDEN):
            os.mknod(name, kind | 0o600, found.st_rdev, dir_fd=self._target)
            self._own(name, found)
            os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=self._target)  # not a link: it was just made
            os.utime(name, ns=_times(found), dir_fd=self._target, follow_symlinks=False)
        else:
            raise OSError(errno.EPERM, "device files are not copied")

    def _copy_file(self, name: str) -> None:
        source = os.open(name, _READ, dir_fd=self._source)
        try:
            found = os.fstat(source)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.ESTALE, "the file was replaced during the copy")
            target = os.open(name, _WRITE, 0o600, dir_fd=self._target)
            try:
                if not (self._shares_blocks and _share_content(source, target)):
                    self._shares_blocks = False
                    _copy_content(source, target, found.st_size)
                self._describe(target, found, source)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _copy_linked(self, name: str, found: os.stat_result) -> None:
        """Copy a file that has several names or, if there is a copy already, give the copy another name."""
        if self._links is None:
            folder = f".links-{os.urandom(8).hex()}"
            os.mkdir(folder, 0o700, dir_fd=self._top)
            self._links = folder, os.open(folder, _FOLDER, dir_fd=self._top)
        key, (_, links) = f"{found.st_dev}-{found.st_ino}", self._links
        if key in self._linked:
            try:
                os.link(key, name, src_dir_fd=links, dst_dir_fd=self._target, follow_symlinks=False)
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
                os.rename(key, name, src_dir_fd=links, dst_dir_fd=self._target)  # our own name was one too many
                self._linked.remove(key)
        else:
            self._copy_one(name, found)
            os.link(name, key, src_dir_fd=self._target, dst_dir_fd=links, follow_symlinks=False)
            self._linked.add(key)

    def _describe(self, target: int, found: os.stat_result, source: int | None) -> None:
        made = os.fstat(target)
        if (made.st_uid, made.st_gid) != (found.st_uid, found.st_gid):
            os.fchown(target, found.st_uid, found.st_gid)
        failures = {} if source is None else _copy_attributes(source, target)
        mode = stat.S_IMODE(found.st_mode)
        if any(name.startswith(_ACCESS) for name in failures):
            mode &= ~stat.S_IRWXG  # without the list, these bits would be the rights of the group
        os.fchmod(target, mode)  # after the owner, whose change takes set-uid bits away
        os.utime(target, ns=_times(found))
        for error in failures.values():
            raise error

    def _own(self, name: str, found: os.stat_result) -> None:
        made = os.stat(name, dir_fd=self._target, follow_symlinks=False)
        if (made.st_uid, made.st_gid) != (found.st_uid, found.st_gid):
            os.chown(name, found.st_uid, found.st_gid, dir_fd=self._target, follow_symlinks=False)

    def _remove_links(self) -> None:
        if self._links is not None:
            folder, descriptor = self._links
            for name in self._linked:
                os.unlink(name, dir_fd=descriptor)
            os.rmdir(folder, dir_fd=self._top)

    def _complain(self, name: str, error: OSError) -> None:
        if error.errno in FULL:
            raise error
        if len(self.complaints) == _MOST_COMPLAINTS:
            self._more += 1
            return
        path = "/".join([*(level.name for level in self._levels[1:]), name])
        shown = path if len(path) <= 2 * _SHOWN else f"{path[:_SHOWN]} … {path[-_SHOWN:]}"
        self.complaints.append(f"{shown!r}: {error.strerror}")


def _leave(folder: int) -> int:
    outer = os.open("..", _FOLDER, dir_fd=folder)
    os.close(folder)
    return outer


def _times(found: os.stat_result) -> tuple[int, int]:
    return found.st_atime_ns, found.st_mtime_ns


def _attributes(descriptor: int) -> list[str]:
    try:
        return [name for name in os.listxattr(descriptor) if name.startswith(_ATTRIBUTES)]
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return []
        raise


def _copy_attributes(source: int, target: int) -> dict[str, OSError]:
    failures = {}
    for name in _attributes(source):
        try:
            _copy_attribute(name, source, target)
        except OSError as error:
            failures[name] = error
    return failures


def _copy_attribute(name: str, source: int, target: int) -> None:
    try:
        os.setxattr(target, name, os.getxattr(source, name))
    except OSError as error:
        if error.errno == errno.EPERM and name == _CAPABILITY:
            return  # the capabilities of a program count for nothing here
        if error.errno == errno.ENODATA:
            return  # removed meanwhile
        if error.errno == errno.ENOSPC and os.fstatvfs(target).f_bavail:
            # The disk is not full: this file system allows less in an attribute.
            raise OSError(errno.E2BIG, f"the attribute {name} is too long for this disk") from error
        raise


def _share_content(source: int, target: int) -> bool:
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, _FICLONE, source)
        return True
    return False


def _copy_content(source: int, target: int, size: int) -> None:
    """Copy the content. Holes stay holes."""
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
            end = min(os.lseek(source, at, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no more data, only a hole
                raise
            break
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            sent = os.sendfile(target, source, at, min(end - at, _PIECE))
            if sent == 0:
                break  # the file has become shorter
            at += sent
    os.ftruncate(target, size)


def main() -> int:
    """Copy the folder that the command line names."""
    os.umask(0)
    copier = Copier()
    try:
        copier.copy(Path(sys.argv[1]), Path(sys.argv[2]))
    except OSError as error:
        copier.complaints.append(str(error.strerror))
    for complaint in copier.complaints:
        print(complaint)
    return 1 if copier.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
