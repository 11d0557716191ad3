"""Device files for sandboxes whose user is the owner of the host's device files, that is, root.

Such a user may change the mode and the times of these files, for the whole host. So sandboxes get files that no user
owns.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ....protocol.names import HIGHEST_ID

# Those that bwrap binds from the host, with their numbers in Linux.
_DEVICES = {"full": (1, 7), "null": (1, 3), "random": (1, 8), "tty": (5, 0), "urandom": (1, 9), "zero": (1, 5)}


def owns_devices() -> bool:
    """Return True if this process's user owns the device files of the host."""
    return Path(os.devnull).stat().st_uid == os.geteuid()


def make_devices(folder: Path) -> None:
    """Make device files that no user owns. Raises OSError if that is forbidden, or if they cannot be opened."""
    folder.mkdir(exist_ok=True)
    for name, numbers in _DEVICES.items():
        file = folder / name
        file.unlink(missing_ok=True)
        os.mknod(file, stat.S_IFCHR, os.makedev(*numbers))
        os.chown(file, HIGHEST_ID, HIGHEST_ID)
        file.chmod(0o666)
    (folder / "null").read_bytes()  # fails if the file system was mounted with `nodev`


def device_mounts(folder: Path) -> Iterator[str]:
    """Yield the options that put the files of :func:`make_devices` over those of the host."""
    for name in _DEVICES:
        yield from ("--dev-bind", str(folder / name), f"/dev/{name}")
