"""Where the content of an upload waits until it is complete.

Only then is the target touched: a body that is cut off half-way leaves the old file as it was.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterable
from types import TracebackType
from typing import IO

IN_MEMORY = 1024 * 1024


class Spool:
    """Content of any size: up to a mebibyte in memory, more in a temporary file without a name."""

    def __init__(self, file: IO[bytes] | None = None) -> None:
        """``file``: content that somebody else has already put into a file."""
        self._memory = bytearray()
        self._file = file

    async def fill(self, chunks: AsyncIterable[bytes]) -> None:
        """Take all of a body.

        Raises:
            OSError: there is no space.
        """
        async for chunk in chunks:
            self._memory += chunk
            if len(self._memory) > IN_MEMORY:
                # In a thread and a mebibyte at a time, so that a slow disk holds up nobody else.
                await asyncio.to_thread(self._write_out)
        if self._file is not None and self._memory:
            await asyncio.to_thread(self._write_out)

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self._memory) + (os.fstat(self._file.fileno()).st_size if self._file else 0)

    async def copy_to(self, descriptor: int) -> None:
        """Write everything to a file, in as few writes as possible: each is an event for those who watch it.

        Raises:
            OSError: there is no space.
        """
        if self._file is not None:
            await asyncio.to_thread(_copy, self._file.fileno(), descriptor)
        elif self._memory:
            _write(descriptor, self._memory)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def _write_out(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed by __exit__
        _write(self._file.fileno(), self._memory)
        self._memory.clear()


def _write(descriptor: int, content: bytes | bytearray) -> None:
    with memoryview(content) as rest:
        written = 0
        while written < len(rest):
            written += os.write(descriptor, rest[written:])


def _copy(source: int, target: int) -> None:
    """Copy a whole file inside the kernel."""
    size = os.fstat(source).st_size
    offset = 0
    try:
        while offset < size and (copied := os.copy_file_range(source, target, size - offset, offset)):
            offset += copied
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
    # The rest, or everything: two file systems, or one that cannot do the above.
    while offset < size and (copied := os.sendfile(target, source, offset, size - offset)):
        offset += copied
