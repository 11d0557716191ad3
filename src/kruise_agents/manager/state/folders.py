"""The folders of things that have a database row: each volume, snapshot and sandbox has a folder of its own.

A folder without a row may be the last that is left of something, for example after a loss of the database. So only
folders with a name that begins with a dot are removed unseen: unfinished copies, and what a client has deleted. All
other folders without a row are moved to ``lost/``.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from ...errors import ConfigurationError

_DRAFT = ".new-"
_REMOVED = ".removed-"

logger = logging.getLogger(__name__)


class Mover(Protocol):
    """The part of a runtime that removes and moves folders with files of sandboxes."""

    def remove(self, folder: Path) -> bool: ...

    def move(self, folder: Path, target: Path) -> None: ...


def draft_of(folder: Path) -> Path:
    """Return the place where the content of ``folder`` is put together."""
    return folder.with_name(_DRAFT + folder.name)


def set_aside(folder: Path, *, in_use: bool = False) -> Path:
    """Rename a folder that is to be removed, so that nobody finds a part of it. Return its new place.

    A folder ``in_use`` keeps its name. A file at the returned place tells the next start to remove the folder.
    """
    aside = folder.with_name(_REMOVED + folder.name)
    if in_use:
        with contextlib.suppress(OSError):  # without the file, the next start moves the folder to lost/
            aside.touch(mode=0o600)
    elif folder.exists():
        folder.rename(aside)
    return aside


def put_back(folder: Path) -> None:
    """Undo :func:`set_aside`."""
    aside = folder.with_name(_REMOVED + folder.name)
    if folder.exists():
        aside.unlink(missing_ok=True)
    elif aside.exists():
        aside.rename(folder)


def names_set_aside(parent: Path) -> set[str]:
    """Return the names of folders that :func:`set_aside` was called for, and that are not removed yet."""
    return {path.name.removeprefix(_REMOVED) for path in parent.iterdir() if path.name.startswith(_REMOVED)}


def clean_up(parent: Path, known: Collection[str], mover: Mover) -> None:
    """Remove what is unfinished or deleted in ``parent``, and move all but ``known`` folders to ``lost/``."""
    removed = names_set_aside(parent)
    for path in list(parent.iterdir()):
        if path.name in known and path.is_dir():
            continue
        if path.name.startswith(".") or path.name in removed:
            if not mover.remove(path):
                raise ConfigurationError(f"{path}, left over from another run, cannot be removed; remove it")
        elif not _is_empty_folder(path):
            _move_to_lost(path, mover)


def has_folders(state_dir: Path) -> bool:
    """Return whether a state folder has folders that only a database can explain."""
    parents = [state_dir / name for name in ("sandboxes", "snapshots", "volumes")]
    paths = (path for parent in parents if parent.is_dir() for path in parent.iterdir())
    return any(not path.name.startswith(".") for path in paths)


def _is_empty_folder(path: Path) -> bool:
    """Remove a folder if it is empty, and return whether it was."""
    try:
        path.rmdir()
    except OSError:
        return False
    return True


def _move_to_lost(path: Path, mover: Mover) -> None:
    lost = path.parent.with_name("lost") / path.parent.name
    target, number = lost / path.name, 1
    while os.path.lexists(target):
        number += 1
        target = lost / f"{path.name}.{number}"
    try:
        lost.mkdir(mode=0o700, parents=True, exist_ok=True)
        mover.move(path, target)
    except OSError as error:
        raise ConfigurationError(
            f"{path} is not in the database and cannot be moved to {target}: {error.strerror or error}; move it there "
            f"or remove it"
        ) from error
    logger.warning("%s was not in the database and is now %s: look whether it is still needed", path, target)


def entry(folder: Path, name: str) -> Path:
    """Return the path of a name in a folder. Raise ValueError if the name, of a damaged record, leads elsewhere."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} names no folder")
    return folder / name
