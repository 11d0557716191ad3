"""Removing a file, or a folder with everything in it."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass

from ..paths import without_trailing_slashes

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: str) -> None:
    """Remove what is at a path; links are never followed. Nothing there is fine too.

    Works by descriptors, and holds one or two of them at a time: a tree may be deeper than recursion, than the
    limit of open files, and than the longest path that Linux takes.

    Raises:
        OSError: it cannot be removed; a part of it may be gone.
    """
    path = without_trailing_slashes(path)
    if os.path.basename(path) in (".", ".."):  # noqa: PTH119  # pathlib drops the dot
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    while os.path.lexists(path):
        with suppress(FileNotFoundError):  # somebody else removes the same tree
            if stat.S_ISDIR(os.lstat(path).st_mode):
                _empty(os.open(path, _FOLDER))
                os.rmdir(path)  # noqa: PTH106  # a plain system call, like all here
            else:
                os.unlink(path)  # noqa: PTH108 - a plain system call


@dataclass(slots=True)
class _Level:
    identity: tuple[int, int]
    """Device and inode, to be known again on the way back."""
    folders: list[str]
    """What is still to be removed from it; it holds nothing else any more."""


def _empty(folder: int) -> None:
    """Remove what is in an open folder, the innermost first, and close it."""
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
                # Moved while it was emptied. What is above it now is none of our business.
                raise OSError(errno.ESTALE, "a folder was moved away meanwhile")
            with suppress(FileNotFoundError):
                os.rmdir(levels[-1].folders.pop(), dir_fd=folder)
    finally:
        os.close(folder)


def _without_files(folder: int) -> _Level:
    """Remove everything but folders."""
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
