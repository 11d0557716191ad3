"""``EntryInfo`` messages: files and folders as clients see them."""

from __future__ import annotations

import functools
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..files import metadata
from ..paths import base_name, displayable
from ..users import Names

# Letters and order of Go's FileMode.String, which envd shows its clients.
_KINDS = (
    (stat.S_ISDIR, "d"),
    (stat.S_ISLNK, "L"),
    (stat.S_ISBLK, "D"),
    (stat.S_ISFIFO, "p"),
    (stat.S_ISSOCK, "S"),
    (stat.S_ISCHR, "Dc"),
)


def entry(path: str, names: Names) -> dict[str, Any]:
    """Return the ``EntryInfo`` of a path. For a link, ``type``, ``mode`` and ``metadata`` describe the target."""
    own = os.lstat(path)
    is_link = stat.S_ISLNK(own.st_mode)
    target = _follow(path) if is_link else own
    info: dict[str, Any] = {
        "name": displayable(base_name(path)),
        "type": _type(target.st_mode if target else 0),
        "path": displayable(path),
        "size": str(own.st_size),
        "mode": target.st_mode & 0o777 if target else 0,
        "permissions": permissions(own.st_mode),
        "owner": names.owner(own.st_uid),
        "group": names.group(own.st_gid),
        "modifiedTime": timestamp(own.st_mtime_ns),
    }
    if is_link:
        info["symlinkTarget"] = displayable(os.path.realpath(path) if target else path)
    if attributes := metadata.read(path):
        info["metadata"] = attributes
    return info


@functools.lru_cache(maxsize=256)
def permissions(mode: int) -> str:
    """Return a mode in Go's notation, such as ``-rw-r--r--``, ``dtrwxrwxrwx`` or ``Lrwxrwxrwx``."""
    kind = "".join(letters for matches, letters in _KINDS if matches(mode))
    special = (
        ("u" if mode & stat.S_ISUID else "")
        + ("g" if mode & stat.S_ISGID else "")
        + ("t" if mode & stat.S_ISVTX else "")
    )
    bits = "".join(letter if mode & 1 << 8 - place else "-" for place, letter in enumerate("rwxrwxrwx"))
    return (kind + special or "-") + bits


def timestamp(nanoseconds: int) -> str:
    """Return nanoseconds since 1970 as an RFC 3339 string, or the start of 1970 if the year is outside 1 to 9999."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = _second(seconds)
    if text is None:
        return "1970-01-01T00:00:00Z"  # RFC 3339 has no years after 9999
    if not fraction:
        return f"{text}Z"
    decimals = 9 if fraction % 1000 else 6 if fraction % 1_000_000 else 3
    return f"{text}.{fraction:09d}"[: len(text) + 1 + decimals] + "Z"


@functools.lru_cache(maxsize=64)
def _second(seconds: int) -> str | None:
    """Return the time without fraction and zone; None if the year is outside 1 to 9999. Cached: files share times."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")
    except (ValueError, OverflowError, OSError):
        return None


def _follow(path: str) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except OSError:
        return None


def _type(mode: int) -> str:
    # A link has the type of its target, because SDKs before 2.19 leave FILE_TYPE_SYMLINK out of lists.
    if stat.S_ISDIR(mode):
        return "FILE_TYPE_DIRECTORY"
    return "FILE_TYPE_FILE" if stat.S_ISREG(mode) else "FILE_TYPE_UNSPECIFIED"
