"""The output of a process, read on the event loop without a thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from .events import OutputKind

# The time that an incomplete character waits for its rest. SDKs before 2.29.1 decode each piece alone.
_TAIL_SECONDS = 0.05
# At least as much as a pipe holds. More output, after the end of a process, comes from other writers of the pipe.
_LAST_BYTES = 1024 * 1024


class Output:
    """The read end of a pipe, or the master side of a terminal. This object owns the descriptor and closes it.

    ``on_data`` is called for each piece, with ``kind`` (such as "stdout") and at most ``limit`` bytes. ``on_end`` is
    called once, after the last piece.
    """

    def __init__(
        self,
        descriptor: int,
        kind: OutputKind,
        limit: int,
        on_data: Callable[[OutputKind, bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._kind = kind
        self._limit = limit
        self._on_data = on_data
        self._on_end = on_end
        self._tail = b""
        self._tail_timer: asyncio.TimerHandle | None = None
        self.closed = False
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def pause(self) -> None:
        if not self.closed:
            self._loop.remove_reader(self._descriptor)

    def resume(self) -> None:
        if not self.closed:
            self._loop.add_reader(self._descriptor, self._read)

    def finish(self) -> None:
        """Read at most about a mebibyte of waiting output, and close the descriptor even before the end of file."""
        taken = 0
        while not self.closed and taken < _LAST_BYTES:
            count = self._read()
            if not count:
                break
            taken += count
        self._close()

    def _read(self) -> int:
        try:
            data = os.read(self._descriptor, self._limit - len(self._tail))
        except BlockingIOError:
            return 0
        except OSError:
            data = b""  # no program has the terminal open any more
        if not data:
            self._close()
            return 0
        self._take(data)
        return len(data)

    def _take(self, data: bytes) -> None:
        self._cancel_timer()
        whole = self._tail + data
        cut = len(whole) - incomplete_tail(whole)
        self._tail = whole[cut:]
        if self._tail:
            self._tail_timer = self._loop.call_later(_TAIL_SECONDS, self._give_tail)
        if cut:
            self._on_data(self._kind, whole[:cut])

    def _give_tail(self) -> None:
        tail, self._tail = self._tail, b""
        self._cancel_timer()
        if tail:
            self._on_data(self._kind, tail)

    def _cancel_timer(self) -> None:
        if self._tail_timer is not None:
            self._tail_timer.cancel()
            self._tail_timer = None

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._give_tail()
        self._on_end()


def incomplete_tail(data: bytes) -> int:
    """Return the number of bytes at the end that begin an incomplete UTF-8 character: 0 to 3."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0b1100_0000 == 0b1000_0000:
            continue  # a later byte of a character, whose first byte stands further to the left
        return back if _length(byte) > back else 0
    return 0


def _length(first: int) -> int:
    if 0xC2 <= first <= 0xDF:
        return 2
    if 0xE0 <= first <= 0xEF:
        return 3
    return 4 if 0xF0 <= first <= 0xF4 else 1
