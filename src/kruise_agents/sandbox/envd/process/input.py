"""The input of a process, written on the event loop without a thread."""

from __future__ import annotations

import asyncio
import os


class InputClosedError(Exception):
    """A write to an input that a client has closed, or whose process has ended."""


class Input:
    """The stdin of a process, or the master side of a terminal. Writes happen in the order of the calls."""

    def __init__(self, descriptor: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._lock = asyncio.Lock()
        self._writable: asyncio.Future[None] | None = None
        self._closed = False
        os.set_blocking(descriptor, False)

    async def write(self, data: bytes) -> None:
        """Write at the reader's pace. Raise OSError for a pipe without readers, InputClosedError for a closed input."""
        async with self._lock:
            rest = memoryview(data)
            while rest:
                if self._closed:
                    raise InputClosedError
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:
                    await self._wait_until_writable()
            if self._closed:
                raise InputClosedError

    async def close(self) -> None:
        async with self._lock:
            self.close_now()

    def close_now(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_writer(self._descriptor)
        os.close(self._descriptor)
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    async def _wait_until_writable(self) -> None:
        self._writable = future = self._loop.create_future()
        self._loop.add_writer(self._descriptor, _wake, future)
        try:
            await future
        finally:
            if not self._closed:
                self._loop.remove_writer(self._descriptor)
            self._writable = None


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
