"""Partial and conditional downloads.

Source: RFC 9110, sections 13 and 14; one range of bytes. Several ranges are answered with the whole file, which the
RFC allows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

CONDITIONS = ("range", "if-range", "if-modified-since", "if-unmodified-since", "if-match", "if-none-match")
"""Headers that ask for a part of the content, or for all of it only sometimes."""

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


class UnsatisfiableRangeError(ValueError):
    """A range that begins behind the end of the file."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """``length`` bytes from ``start`` on."""

    start: int
    length: int

    def header(self, size: int) -> str:
        """The value of ``Content-Range`` for a file of ``size`` bytes."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


def requested_range(headers: Mapping[str, str], size: int, modified: int) -> ByteRange | None:
    """The part of a file that a request asks for, or None for all of it.

    Args:
        headers: of the request.
        size: of the file, in bytes.
        modified: unix seconds.

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
    """Whether the client's copy is as new as the file: the answer is 304."""
    since = _seconds(headers.get("if-modified-since", ""))
    return since is not None and "if-none-match" not in headers and modified <= since


def _seconds(date: str) -> int | None:
    try:
        return int(parsedate_to_datetime(date).timestamp())
    except (TypeError, ValueError):
        return None
