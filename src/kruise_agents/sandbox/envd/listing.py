"""The order in which a folder is listed."""

from __future__ import annotations

import os
from collections.abc import Iterator


def walk(folder: str, depth: int) -> Iterator[str]:
    """Paths below ``folder``, ``depth`` levels deep: names in byte order, a folder before what is in it.

    Links are listed and not followed; what vanishes meanwhile is skipped.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for entry in found:
        yield entry.path
        if depth > 1 and entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path, depth - 1)
