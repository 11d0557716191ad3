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
    """Remove a file, a link, or a folder with its content. Links are not followed. A missing path is no error."""
    path = without_trailing_slashes(path)
    if os.path.basename(path) in (".", ".."):  # noqa: PTH119  # pathlib drops the dot
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    while (mode := _mode(path)) is not None:
        with suppress(FileNotFoundError):  # another program removes the same tree
            if stat.S_ISDIR(mode):
                _empty(os.open(path, _FOLDER))
                os.rmdir(path)  # noqa: PTH106  # a plain system call, like all here
            else:
                os.unlink(path)  # noqa: PTH108 - a plain system call


def _mode(path: str) -> int | None:
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


@dataclass(slots=True)
class _Level:
    identity: tuple[int, int]  # device and inode, compared on the way back
    folders: list[str]  # still to be removed, in contrast to all other entries of this level


def _empty(folder: int) -> None:
    """Remove the content of an open folder, and close the folder."""
    # The depth of the tree is not limited by recursion, by the limit of open files or by the longest path of Linux: at
    # most two descriptors are open at a time, and no path is built.
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
                # The emptied folder was moved, and its new parent must not be touched.
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
