"""The log of a sandbox's program, which is kept short because code in the sandbox may write to the log too."""

from __future__ import annotations

from pathlib import Path
from typing import IO

MOST_BYTES = 4 * 1024 * 1024
KEPT_BYTES = 1024 * 1024
_MODE = 0o600


def open_log(path: Path, mode: str) -> IO[bytes]:
    """Open a log in a binary ``mode`` of :func:`open`, even if code in the sandbox has taken the permission away."""
    try:
        return path.open(mode)
    except PermissionError:
        path.chmod(_MODE)
        return path.open(mode)


def last_bytes(path: Path) -> bytes:
    """Return the last lines of a log, as many as fit in :data:`KEPT_BYTES`."""
    with open_log(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - KEPT_BYTES))
        content = file.read(KEPT_BYTES)
    return content.partition(b"\n")[2] if size > KEPT_BYTES else content


def shorten(path: Path) -> None:
    """Cut a log of more than :data:`MOST_BYTES` to :func:`last_bytes`. A line that is written meanwhile may be lost."""
    if path.stat().st_size > MOST_BYTES:
        content = last_bytes(path)
        with open_log(path, "r+b") as file:
            file.truncate()
            file.write(content)
