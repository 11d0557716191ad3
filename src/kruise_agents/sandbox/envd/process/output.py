"""Reading what a process writes, without a thread and without waiting."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from .events import OutputKind
from .text import incomplete_tail

# How long the beginning of a character waits for its rest. SDKs before 2.29.1 decode each piece alone.
_TAIL_SECONDS = 0.05
# More than a pipe holds. What comes after the end of a process is from others that write to the same pipe.
_LAST_BYTES = 1024 * 1024


class Output:
    """One pipe, or the operating side of a terminal. Closes itself at the end of file.

    Args:
        descriptor: is closed here.
        kind: how its data is called in events.
        limit: bytes in one piece, at most.
        on_data: gets each piece.
        on_end: called once, after the last piece.
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
        """Read no more: the pipe fills, and then the process waits."""
        if not self.closed:
            self._loop.remove_reader(self._descriptor)

    def resume(self) -> None:
        """Read again."""
        if not self.closed:
            self._loop.add_reader(self._descriptor, self._read)

    def finish(self) -> None:
        """Take what is there, and close without waiting for the end of file."""
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
            data = b""  # a terminal that no program has open any more
        if not data:
            self._close()
            return 0
        self._take(data)
        return len(data)

    def _take(self, data: bytes) -> None:
        if self._tail_timer is not None:
            self._tail_timer.cancel()
            self._tail_timer = None
        whole = self._tail + data
        cut = len(whole) - incomplete_tail(whole)
        self._tail = whole[cut:]
        if self._tail:
            self._tail_timer = self._loop.call_later(_TAIL_SECONDS, self._give_tail)
        if cut:
            self._on_data(self._kind, whole[:cut])

    def _give_tail(self) -> None:
        tail, self._tail = self._tail, b""
        if self._tail_timer is not None:
            self._tail_timer.cancel()
            self._tail_timer = None
        if tail:
            self._on_data(self._kind, tail)

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._give_tail()
        self._on_end()
