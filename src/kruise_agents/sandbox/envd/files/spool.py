"""Temporary storage for the content of an upload until the upload is complete.

The target is not opened before the body is complete, so that a truncated body leaves the old file unchanged. When
the disk is full, the methods that write to the disk raise OSError.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterable
from dataclasses import dataclass
from types import TracebackType
from typing import IO

from ..errors import NO_SPACE

IN_MEMORY = 1024 * 1024
# Smaller content is copied, because a piece that is not copied keeps the whole chunk that it came with in memory.
_NOT_COPIED = 64 * 1024


class Spool:
    """Content of any size. Up to a mebibyte stays in memory. Larger content goes to an unnamed temporary file.

    A thread writes one mebibyte while the next comes in, because a disk may be slow.
    """

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._in_memory = 0
        self._file: IO[bytes] | None = None
        self._writing: asyncio.Task[None] | None = None

    async def fill(self, chunks: AsyncIterable[bytes]) -> Piece:
        async for chunk in chunks:
            self.append(chunk)
            await self.make_room()
        return await self.finish()

    def append(self, content: bytes | memoryview) -> None:
        """Add ``content`` to the bytes in memory. After each call, call :meth:`make_room`."""
        if len(content) >= _NOT_COPIED:
            self._pieces.append(content)
        else:
            last = self._pieces[-1] if self._pieces else None
            if not isinstance(last, bytearray):
                last = bytearray()
                self._pieces.append(last)
            last += content
        self._in_memory += len(content)
        self.size += len(content)

    async def make_room(self) -> None:
        """If the content in memory exceeds a mebibyte, begin to write it to the file when the write before is done."""
        if self._in_memory > IN_MEMORY:
            await self._begin_write()

    async def finish(self) -> Piece:
        if self._writing is not None:
            await self._begin_write()
            await self._written()
        return Piece(self, 0, self.size)

    @property
    def in_memory(self) -> bool:
        return self._file is None

    async def copy_to(self, descriptor: int, start: int, end: int) -> None:
        """Write a range of bytes to an open file, in few writes, because watches report each write as an event."""
        if self._file is not None:
            await asyncio.to_thread(copy_range, self._file.fileno(), descriptor, start, end)
        elif start < end:
            whole = b"".join(self._pieces)
            self._pieces = [whole]
            _write(descriptor, memoryview(whole)[start:end])

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writing is not None:
            self._writing.add_done_callback(self._close)

    async def _begin_write(self) -> None:
        await self._written()
        pieces, self._pieces, self._in_memory = self._pieces, [], 0
        self._writing = asyncio.create_task(asyncio.to_thread(self._write_out, pieces))

    async def _written(self) -> None:
        if self._writing is not None:
            await asyncio.shield(self._writing)  # a thread cannot be stopped, and the file is open until it is done

    def _write_out(self, pieces: list[bytes | bytearray | memoryview]) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed by _close()
        for piece in pieces:
            _write(self._file.fileno(), memoryview(piece))

    def _close(self, writing: asyncio.Task[None]) -> None:
        if not writing.cancelled():
            writing.exception()  # the request has failed with it, or for an earlier reason
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True, slots=True)
class Piece:
    """The content of one file: the bytes from ``start`` to ``end`` of a spool."""

    spool: Spool
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def in_memory(self) -> bool:
        """Return whether :meth:`copy_to` writes the content from memory, at once."""
        return self.spool.in_memory

    async def copy_to(self, descriptor: int) -> None:
        await self.spool.copy_to(descriptor, self.start, self.end)


def _write(descriptor: int, content: memoryview) -> None:
    written = 0
    while written < len(content):
        written += os.write(descriptor, content[written:])


def copy_range(source: int, target: int, start: int, end: int) -> None:
    """Copy bytes ``start`` to ``end``, or fewer if ``source`` is shorter, to the current position of ``target``."""
    try:
        while start < end and (copied := os.copy_file_range(source, target, end - start, start)):
            start += copied
    except OSError as error:
        if error.errno in NO_SPACE or error.errno == errno.EIO:
            raise
    # sendfile copies the rest, or everything: copy_file_range fails between some file systems, and on some always.
    while start < end and (copied := os.sendfile(target, source, start, end - start)):
        start += copied
