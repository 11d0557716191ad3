"""The standard output and error of a kernel, sent in whole lines where possible.

Many clients put a line end between an execution's messages, so a message that ends within a line splits that line.
ipykernel's own stream (6.29 to 7.4) starts a timer at the first write, and sends all waiting text when the timer ends.
In a program that prints without pause, the timer may end after ``print`` has written its text, but before the line end.

Output of subprocesses comes through a pipe in pieces, and a piece may end within a character. ipykernel would decode
each piece alone. Here the pieces are decoded as one stream.
"""

from __future__ import annotations

import codecs
import os
import sys
from io import StringIO
from typing import Any

from ipykernel.iostream import OutStream

_PIECE_BYTES = 64 * 1024  # the capacity of a pipe


class LineStream(OutStream):
    """ipykernel's stream, but the timer sends whole lines, or all text if no line is whole; ``flush`` sends all."""

    _timer: Any = None
    _lines_only = False

    def _watch_pipe_fd(self) -> None:
        if self._fid is None:
            return
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            while (data := os.read(self._fid, _PIECE_BYTES)) and self._should_watch:
                self.write(decoder.decode(data))
                os.write(self._original_stdstream_copy, data)
        except Exception:  # ipykernel shows this error when it closes the stream
            self._exc = sys.exc_info()

    def _schedule_flush(self) -> None:
        if not self._flush_pending:
            self._flush_pending = True
            self.pub_thread.schedule(self._start_timer)

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self._io_loop.call_later(self.flush_interval, self._flush_lines)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._io_loop.remove_timeout(self._timer)
            self._timer = None

    def _flush(self) -> None:
        # Otherwise a timer that was started for the text sent here could end between the two writes of a later print.
        self._stop_timer()
        super()._flush()  # type: ignore[no-untyped-call]  # ipykernel has types in parts

    def _flush_lines(self) -> None:
        self._lines_only = True
        try:
            self._flush()
        finally:
            self._lines_only = False
        if self._buffers:
            self._schedule_flush()

    def _rotate_buffers(self) -> dict[frozenset[tuple[str, Any]], StringIO]:
        with self._buffer_lock:
            buffers: dict[frozenset[tuple[str, Any]], StringIO] = super()._rotate_buffers()  # type: ignore[no-untyped-call]
            if self._lines_only:
                for parent, buffer in buffers.items():
                    self._keep_beginning(parent, buffer)
            return buffers

    def _keep_beginning(self, parent: frozenset[tuple[str, Any]], buffer: StringIO) -> None:
        # A text without a line end has waited long enough and is sent.
        lines, end, beginning = buffer.getvalue().rpartition("\n")
        if end and beginning:
            buffer.truncate(len(lines) + len(end))
            self._buffers[parent].write(beginning)
