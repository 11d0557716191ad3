"""The standard output and error of a kernel, sent in whole lines where possible.

Many clients put a line end between an execution's messages, so a message that ends within a line splits that line.
ipykernel's own stream (6.29 to 7.4) starts a timer at the first write, and sends all waiting text when the timer ends.
In a program that prints without pause, the timer may end after ``print`` has written its text, but before the line end.

Output of subprocesses comes through a pipe. ipykernel reads the pipe in another thread, which may come too late: what a
cell prints after a subprocess would overtake the output of the subprocess. Here every write and every flush first reads
what the pipe holds. A piece of output may end within a character, so the pieces are decoded as one stream.
"""

from __future__ import annotations

import codecs
import os
import threading
from contextlib import suppress
from io import StringIO
from select import POLLIN, poll
from typing import Any

from ipykernel.iostream import OutStream

_PIECE_BYTES = 64 * 1024  # the capacity of a pipe


class LineStream(OutStream):
    """ipykernel's stream, but the timer sends whole lines, or all text if no line is whole; ``flush`` sends all."""

    _fid: int | None = None
    _timer: Any = None
    _lines_only = False
    _in_child = False
    _cell: tuple[dict[str, Any] | None, frozenset[tuple[str, Any]]] = (None, frozenset())

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pipe_lock = threading.RLock()
        with self._pipe_lock:  # the thread that this call starts waits until everything is set
            super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]  # ipykernel has types in parts
            self._filled = _poll(self._fid)
        os.register_at_fork(after_in_child=self._leave_pipe)

    def write(self, string: str) -> int | None:  # type: ignore[override]  # ipykernel's returns None in a child
        if self._in_child or self.echo is not None or self.pub_thread is None or not isinstance(string, str):
            return super().write(string)
        # As ipykernel does, but faster, which pays for the look at the pipe.
        self._take_from_pipe()
        self._append(self.parent_header, string)
        return len(string)

    def flush(self) -> None:
        self._take_from_pipe()
        super().flush()  # type: ignore[no-untyped-call]  # ipykernel has types in parts

    def _append(self, parent: dict[str, Any], text: str) -> None:
        cell = self._cell
        if cell[0] is not parent:
            cell = self._cell = (parent, frozenset(parent.items()))
        with self._buffer_lock:
            self._buffers[cell[1]].write(text)
        self._schedule_flush()

    def _watch_pipe_fd(self) -> None:
        filled = _poll(self._fid)  # not self._filled: two threads cannot use a poll object at the same time
        while self._fid is not None and self._should_watch:
            filled.poll()
            self._take_from_pipe()

    def _take_from_pipe(self) -> None:
        """Append to this stream what subprocesses have written so far, as output of the latest cell."""
        with self._pipe_lock:
            if self._fid is None or not self._should_watch or not self._filled.poll(0):
                return
            try:
                data = os.read(self._fid, _PIECE_BYTES)
            except OSError:
                data = b""
            if not data:
                self._fid = None  # a cell has closed an end of the pipe
            self._append(self._parent_header_global, self._decoder.decode(data))
            with suppress(OSError):  # no space is left for the file that explains the end of a kernel
                os.write(self._original_stdstream_copy, data)

    def _leave_pipe(self) -> None:
        # Another thread may have held the lock. The pipe is the parent's.
        self._in_child, self._fid, self._pipe_lock = True, None, threading.RLock()

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


def _poll(descriptor: int | None) -> poll:
    watched = poll()
    if descriptor is not None:
        watched.register(descriptor, POLLIN)
    return watched
