"""The storage of an upload that is under way: every byte in its order, and little memory."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest

from kruise_agents.sandbox.envd.files import spool as module
from kruise_agents.sandbox.envd.files.spool import IN_MEMORY, Spool

CHUNK = 256 * 1024
LARGE = IN_MEMORY // 2


def spooled(pieces: Iterable[bytes | memoryview]) -> bytes:
    async def run() -> bytes:
        with Spool() as spool:
            for piece in pieces:
                spool.append(piece)
                await spool.make_room()
            whole = await spool.finish()
            target = os.memfd_create("target")
            try:
                await whole.copy_to(target)
                return os.pread(target, whole.size + 1, 0)
            finally:
                os.close(target)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "sizes",
    [[1, 2, 3], [LARGE], [1, LARGE, 1, 1, LARGE - 4], [1, LARGE, LARGE, 1, LARGE, 1, 1], [0, 3 * LARGE, 0, 1]],
    ids=str,
)
def test_pieces_of_all_sizes_stay_in_order(sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    assert spooled(pieces) == b"".join(pieces)


def test_a_small_piece_does_not_keep_its_chunk_in_memory() -> None:
    tracemalloc.start()
    try:
        content = spooled(memoryview(bytes(CHUNK))[:10] for _ in range(200))
        assert tracemalloc.get_traced_memory()[1] < 20 * CHUNK
    finally:
        tracemalloc.stop()
    assert content == bytes(2000)


def test_a_disk_that_refuses_a_write_is_told_and_the_file_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, content: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "_write", refuse)
    opened = open_files()
    with pytest.raises(OSError, match="No space left"):
        spooled([os.urandom(IN_MEMORY + 1)] * 3)
    assert open_files() == opened


def test_a_spool_that_is_left_while_it_writes_closes_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    may_write = threading.Event()
    monkeypatch.setattr(module, "_write", lambda descriptor, content: may_write.wait(20))
    opened = open_files()

    async def run() -> None:
        with Spool() as spool:
            spool.append(bytes(IN_MEMORY + 1))
            await spool.make_room()
        may_write.set()
        async with asyncio.timeout(20):
            while open_files() != opened or len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.001)

    asyncio.run(run())


def open_files() -> int:
    return sum("deleted" in str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())
