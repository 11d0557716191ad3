"""The log of a sandbox's program, which is kept short because code in the sandbox may write to the log too."""

from __future__ import annotations

from pathlib import Path

MOST_BYTES = 4 * 1024 * 1024
KEPT_BYTES = 1024 * 1024


def last_bytes(path: Path) -> bytes:
    """Return the last lines of a log, as many as fit in :data:`KEPT_BYTES`."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - KEPT_BYTES))
        content = file.read(KEPT_BYTES)
    return content.partition(b"\n")[2] if size > KEPT_BYTES else content


def shorten(path: Path) -> None:
    """Cut a log of more than :data:`MOST_BYTES` to :func:`last_bytes`. A line that is written meanwhile may be lost."""
    if path.stat().st_size > MOST_BYTES:
        content = last_bytes(path)
        with path.open("r+b") as file:
            file.truncate()
            file.write(content)
