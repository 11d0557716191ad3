"""The storage of an upload that is under way: every byte in its order, and little memory."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import Iterable

import pytest

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
