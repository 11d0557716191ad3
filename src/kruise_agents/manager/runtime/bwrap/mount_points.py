"""The places in a sandbox's file tree on which something is mounted, where code may have laid out that tree.

``bwrap`` follows the links that it meets, also those that lead to the host, which it still sees then. No process of the
sandbox is there when these functions look.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..files.layout import Layout
from ..files.openat2 import open_below

_WORDS_TO_PLACE = {
    **{"--bind": 2, "--ro-bind": 2, "--ro-bind-try": 2, "--symlink": 2},
    **{"--dir": 1, "--tmpfs": 1, "--proc": 1, "--dev": 1},
}
"""Options of ``bwrap`` that make something, and how many words later they say where."""


def make_mount_points(layout: Layout) -> None:
    """Make the folders on which a sandbox's volumes are mounted.

    Raises:
        OSError: a link or a file is in the way.
    """
    for mount in layout.mounts:
        folder = os.open(layout.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for name in mount.target.strip("/").split("/"):
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=folder)
                inner = open_below(folder, name, os.O_PATH | os.O_DIRECTORY, links=False)
            finally:
                os.close(folder)
            folder = inner
        os.close(folder)


def refuse_links(rootfs: Path, options: Sequence[str]) -> None:
    """Refuse a file tree that would lead ``bwrap`` elsewhere than where its options say.

    Parameters:
        options: of ``bwrap``, for this tree.

    Raises:
        OSError: a link is in the way.
    """
    seen: set[Path] = set()
    for option, place in _places(options):
        path = rootfs
        names = Path(place).parts[1:]
        for left, name in zip(reversed(range(len(names))), names, strict=True):
            path /= name
            if path in seen:
                continue
            try:
                mode = path.lstat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                break  # bwrap makes it, or complains itself
            # Of a link that is there already bwrap itself sees to it that it is the one that was asked for.
            if stat.S_ISLNK(mode) and (left or option != "--symlink"):
                raise OSError(errno.ELOOP, "a link is in the way of what is mounted", f"/{path.relative_to(rootfs)}")
            seen.add(path)


def _places(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, word in enumerate(options):
        if word in _WORDS_TO_PLACE:
            yield word, options[number + _WORDS_TO_PLACE[word]]
