"""Mount points in a sandbox's file tree, which hostile code may have laid out.

While ``bwrap`` mounts, it follows links, even to folders of the host. So these functions refuse such links before
``bwrap`` starts. No process of the sandbox runs at that time, so none can add a link after the check.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ..files.layout import Layout
from ..files.openat2 import open_below

# Options of bwrap that make a file or folder, with the number of words from the option to the path.
_PATH_OFFSETS = {
    **{"--bind": 2, "--dev-bind": 2, "--ro-bind": 2, "--ro-bind-try": 2, "--symlink": 2},
    **{"--dir": 1, "--tmpfs": 1, "--proc": 1, "--dev": 1},
}


def make_mount_points(layout: Layout) -> None:
    """Make the folders on which the volumes of a sandbox are mounted. A link or a file in the way raises an OSError."""
    for mount in layout.mounts:
        folder = os.open(layout.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for name in mount.target.strip("/").split("/"):
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder)
                    os.chmod(name, 0o755, dir_fd=folder)  # noqa: S103 - whatever the umask
                inner = open_below(folder, name, os.O_PATH | os.O_DIRECTORY, links=False)
            finally:
                os.close(folder)
            folder = inner
        os.close(folder)


def is_reserved(path: str, options: Sequence[str]) -> bool:
    """Return True if a path in a sandbox is a place that these options of ``bwrap`` mount, or lies above or below one.

    The root of the file tree does not count.
    """
    wanted = PurePosixPath(path)
    places = [PurePosixPath(target) for option, target in _targets(options) if option != "--dir" and target != "/"]
    return any(wanted.is_relative_to(place) or place.is_relative_to(wanted) for place in places)


def refuse_links(rootfs: Path, options: Sequence[str]) -> None:
    """Raise an OSError if a link in the file tree would redirect a path in these options of ``bwrap``."""
    seen: set[str] = set()
    for option, target in _targets(options):
        path = ""  # below rootfs, and text: a Path for each of some hundred parts takes milliseconds
        names = [name for name in target.split("/") if name not in ("", ".")]
        for remaining, name in zip(reversed(range(len(names))), names, strict=True):
            path += f"/{name}"
            if path in seen:
                continue
            try:
                mode = os.lstat(f"{rootfs}{path}").st_mode
            except (FileNotFoundError, NotADirectoryError):
                break  # bwrap makes the path, or reports the error
            # bwrap itself checks that an existing link is the one that --symlink asks for.
            if stat.S_ISLNK(mode) and (remaining or option != "--symlink"):
                raise OSError(errno.ELOOP, "a link is in the way of what is mounted", path)
            seen.add(path)


def _targets(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, word in enumerate(options):
        if word in _PATH_OFFSETS:
            yield word, options[number + _PATH_OFFSETS[word]]
