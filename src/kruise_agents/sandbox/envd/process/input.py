"""Writing to what a process reads, without a thread."""

from __future__ import annotations

import asyncio
import os


class InputClosedError(Exception):
    """Nothing can be written any more."""


class Input:
    """The pipe of a process's stdin, or the operating side of its terminal.

    Writes happen one after another, in the order of the calls. ``descriptor`` is closed here.
    """

    def __init__(self, descriptor: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._turn = asyncio.Lock()
        self._room: asyncio.Future[None] | None = None
        self._closed = False
        os.set_blocking(descriptor, False)

    async def write(self, data: bytes) -> None:
        """Write everything; waits while the process does not read.

        Raises:
            InputClosedError: the input was closed, or the process has ended.
            OSError: nobody reads any more.
        """
        async with self._turn:
            rest = memoryview(data)
            while rest:
                if self._closed:
                    raise InputClosedError
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:
                    await self._wait_for_room()
            if self._closed:
                raise InputClosedError

    async def close(self) -> None:
        """End of file for the process, after what is being written; repeated calls do nothing."""
        async with self._turn:
            self.cut()

    def cut(self) -> None:
        """Close at once; a write that waits fails."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_writer(self._descriptor)
        os.close(self._descriptor)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _wait_for_room(self) -> None:
        self._room = room = self._loop.create_future()
        self._loop.add_writer(self._descriptor, _wake, room)
        try:
            await room
        finally:
            if not self._closed:
                self._loop.remove_writer(self._descriptor)
            self._room = None


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
