"""The order in which a folder is listed."""

from __future__ import annotations

import os
from collections.abc import Iterator


def walk(folder: str, depth: int) -> Iterator[str]:
    """Paths below ``folder``, ``depth`` levels deep: names in byte order, a folder before what is in it.

    Links are listed and not followed. What vanishes meanwhile is skipped, and so is what is in a folder below
    ``folder`` that cannot be read or whose path is longer than Linux allows.

    Raises:
        OSError: ``folder`` itself cannot be read.
    """
    levels = [_entries(folder)]
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
            continue
        yield entry.path
        if len(levels) < depth:
            try:
                if entry.is_dir(follow_symlinks=False):
                    levels.append(_entries(entry.path))
            except OSError:
                continue


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return iter(sorted(entries, key=lambda entry: os.fsencode(entry.name)))
