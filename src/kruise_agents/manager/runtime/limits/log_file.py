"""The log of a sandbox's program, kept short: code in the sandbox may write to the log too."""

from __future__ import annotations

from pathlib import Path

MOST_BYTES = 4 * 1024 * 1024
KEPT_BYTES = 1024 * 1024


def last_bytes(path: Path) -> bytes:
    """Return the last :data:`KEPT_BYTES` of a log, from the beginning of a line if possible."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - KEPT_BYTES))
        content = file.read(KEPT_BYTES)
    return content.partition(b"\n")[2] if size > KEPT_BYTES else content


def shorten(path: Path) -> None:
    """Leave only the end of a log that is longer than :data:`MOST_BYTES`. The program keeps appending meanwhile."""
    if path.stat().st_size > MOST_BYTES:
        content = last_bytes(path)
        with path.open("r+b") as file:
            file.truncate()
            file.write(content)
