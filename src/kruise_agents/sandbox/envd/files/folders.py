"""Creation of folders and of their missing parents."""

from __future__ import annotations

import stat
from pathlib import Path

from ..users import User

_FOLDER_MODE = 0o755


class NotAFolderError(Exception):
    """A file, or a broken link, where a folder is needed."""

    def __init__(self, path: str) -> None:
        super().__init__(f"path is a file: {path}")


def ensure(folder: Path, user: User) -> None:
    """Create a folder and its missing parents for ``user``. Raise NotAFolderError if a file is in the way."""
    missing = []
    while True:
        try:
            mode = folder.stat().st_mode
        except FileNotFoundError:
            missing.append(folder)
            folder = folder.parent
        except NotADirectoryError:
            folder = folder.parent
        else:
            break
    if not stat.S_ISDIR(mode):
        raise NotAFolderError(str(folder))
    for new in reversed(missing):
        try:
            new.mkdir(_FOLDER_MODE)
        except FileExistsError:
            if not new.is_dir():  # a broken link
                raise NotAFolderError(str(new)) from None
            continue  # another program has just created the folder
        user.own(new)
