"""gzip bodies of downloads."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

_GZIP = 16 + zlib.MAX_WBITS
# The fastest: it is for slow lines, and the one core that it keeps busy is the limit on all others.
_LEVEL = 1


async def gzipped(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Content as one gzip member, compressed piece by piece and in a thread."""
    member = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    async for piece in pieces:
        if compressed := await asyncio.to_thread(member.compress, piece):
            yield compressed
    yield member.flush()
