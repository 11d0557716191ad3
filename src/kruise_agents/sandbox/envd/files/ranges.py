"""Partial and conditional downloads.

Source: RFC 9110, sections 13 and 14. A request for several ranges gets the whole file, which the RFC allows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

# Headers that ask for a part of the content, or for the content on a condition.
CONDITIONS = ("range", "if-range", "if-modified-since", "if-unmodified-since", "if-match", "if-none-match")

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


class UnsatisfiableRangeError(ValueError):
    """A range that begins behind the end of the file."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """``length`` bytes, beginning at ``start``."""

    start: int
    length: int

    def header(self, size: int) -> str:
        """Return the ``Content-Range`` for a file of ``size`` bytes."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


def requested_range(headers: Mapping[str, str], size: int, modified: int) -> ByteRange | None:
    """Return the part that a request asks for of a file of ``size`` bytes, or None for the whole file.

    Raises:
        UnsatisfiableRangeError: the answer is 416.
    """
    match = _RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    condition = headers.get("if-range")
    if condition is not None and _seconds(condition) != modified:
        return None
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= size:
        raise UnsatisfiableRangeError
    return ByteRange(start, end - start)


def not_modified(headers: Mapping[str, str], modified: int) -> bool:
    """Return True if the client's copy is up to date, so that the answer is 304."""
    since = _seconds(headers.get("if-modified-since", ""))
    return since is not None and "if-none-match" not in headers and modified <= since


def _seconds(date: str) -> int | None:
    try:
        return int(parsedate_to_datetime(date).timestamp())
    except (TypeError, ValueError):
        return None
