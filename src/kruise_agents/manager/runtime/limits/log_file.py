"""The file that a sandbox's program writes to, which code in the sandbox may write to as well."""

from __future__ import annotations

from pathlib import Path

MOST_BYTES = 4 * 1024 * 1024
KEPT_BYTES = 1024 * 1024
"""Of the end of one that has become too long, and of any one that is read."""


def last_bytes(path: Path) -> bytes:
    """The end of a log: whole lines, where it has them.

    Raises:
        FileNotFoundError: there is none.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - KEPT_BYTES))
        content = file.read(KEPT_BYTES)
    return content.partition(b"\n")[2] if size > KEPT_BYTES else content


def shorten(path: Path) -> None:
    """Leave only the end of a log that is longer than :data:`MOST_BYTES`. It is open for appending elsewhere.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.stat().st_size > MOST_BYTES:
        content = last_bytes(path)
        with path.open("r+b") as file:
            file.truncate()
            file.write(content)
