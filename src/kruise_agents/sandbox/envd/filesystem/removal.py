"""Removal of a file, or of a folder with its content."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass

from ..paths import without_trailing_slashes

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: str) -> None:
    """Remove a file or folder; links are not followed, and a missing path is no error.

    At most two descriptors are open at a time, and no path is built: a tree may be deeper than the limits of recursion,
    of open files, and of the length of a path. When an error ends the removal, a part may be gone already.
    """
    path = without_trailing_slashes(path)
    if os.path.basename(path) in (".", ".."):  # noqa: PTH119  # pathlib drops the dot
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    while os.path.lexists(path):
        with suppress(FileNotFoundError):  # another program removes the same tree
            if stat.S_ISDIR(os.lstat(path).st_mode):
                _empty(os.open(path, _FOLDER))
                os.rmdir(path)  # noqa: PTH106  # a plain system call, like all here
            else:
                os.unlink(path)  # noqa: PTH108 - a plain system call


@dataclass(slots=True)
class _Level:
    identity: tuple[int, int]  # device and inode, compared on the way back
    folders: list[str]  # still to be removed; everything else in this level is gone


def _empty(folder: int) -> None:
    """Remove the content of an open folder, innermost first, and close the folder."""
    try:
        levels = [_without_files(folder)]
        while True:
            if names := levels[-1].folders:
                try:
                    inner = os.open(names[-1], _FOLDER, dir_fd=folder)
                except FileNotFoundError:
                    names.pop()
                    continue
                folder = _instead_of(folder, inner)
                levels.append(_without_files(folder))
                continue
            levels.pop()
            if not levels:
                return
            folder = _instead_of(folder, os.open("..", _FOLDER, dir_fd=folder))
            if _identity(folder) != levels[-1].identity:
                # The folder was moved while it was emptied, and its new parent must not be touched.
                raise OSError(errno.ESTALE, "a folder was moved away meanwhile")
            with suppress(FileNotFoundError):
                os.rmdir(levels[-1].folders.pop(), dir_fd=folder)
    finally:
        os.close(folder)


def _without_files(folder: int) -> _Level:
    folders = []
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if is_folder:
            folders.append(name)
        else:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
    return _Level(_identity(folder), folders)


def _instead_of(old: int, new: int) -> int:
    os.close(old)
    return new


def _identity(folder: int) -> tuple[int, int]:
    facts = os.fstat(folder)
    return facts.st_dev, facts.st_ino
