"""The search for the end of a chunked request body (RFC 9112, section 7.1).

httptools reads the chunks but does not tell where a body ends. Without this module, bytes after a body would become the
next request without passing the strict reader of heads.
"""

from __future__ import annotations

import re

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[^\r\n]*)?\r\n")


class ChunkedBody:
    """A search that finds the end of well-formed bodies only. httptools decides what becomes of a malformed body."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._to_skip = 0
        self._in_trailers = False
        self._malformed = False

    def end_in(self, data: bytes) -> int | None:
        """Return how many bytes of ``data`` belong to the body, or None if ``data`` does not contain the body's end."""
        at = 0
        while at < len(data) and not self._malformed:
            if self._to_skip:
                skipped = min(self._to_skip, len(data) - at)
                self._to_skip -= skipped
                at += skipped
                continue
            line_end = data.find(b"\n", at) + 1
            self._line += data[at : line_end or len(data)]
            if not line_end:
                return None
            at = line_end
            if self._ends_with(bytes(self._line)):
                return at
            self._line.clear()
        return None

    def _ends_with(self, line: bytes) -> bool:
        if self._in_trailers:
            return line == b"\r\n"
        size = _SIZE_LINE.fullmatch(line)
        self._malformed = size is None
        chunk = int(size[1], 16) if size is not None else 0
        self._in_trailers = chunk == 0
        self._to_skip = chunk + len(b"\r\n") if chunk else 0
        return False
