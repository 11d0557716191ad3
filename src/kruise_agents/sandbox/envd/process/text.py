"""Where a piece of output may be cut."""

from __future__ import annotations


def incomplete_tail(data: bytes) -> int:
    """How many bytes at the end are the beginning of a UTF-8 character whose rest has not come yet: 0 ... 3."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0b1100_0000 == 0b1000_0000:
            continue  # inside a character: look further to its left
        return back if _length(byte) > back else 0
    return 0


def _length(first: int) -> int:
    """The length of the character that begins with this byte; 1 for bytes that begin none."""
    if 0xC2 <= first <= 0xDF:
        return 2
    if 0xE0 <= first <= 0xEF:
        return 3
    return 4 if 0xF0 <= first <= 0xF4 else 1
