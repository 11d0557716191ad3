"""Making folders on the way to a file."""

from __future__ import annotations

import stat
from pathlib import Path

from ..users import User

FOLDER_MODE = 0o755


class NotAFolderError(Exception):
    """Something that is not a folder stands where one is needed."""

    def __init__(self, path: str) -> None:
        super().__init__(f"path is a file: {path}")
        self.path = path


def ensure(folder: Path, user: User) -> None:
    """Make a folder and its missing parents, owned by the user; existing ones stay as they are.

    Raises:
        NotAFolderError: a component is a file.
        OSError: it cannot be made.
    """
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
            new.mkdir(FOLDER_MODE)
        except FileExistsError:
            if not new.is_dir():  # a link to nothing
                raise NotAFolderError(str(new)) from None
            continue  # somebody else was faster
        user.own(new)
