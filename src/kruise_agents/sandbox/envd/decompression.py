"""gzip bodies of uploads."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, AsyncIterable

_GZIP = 16 + zlib.MAX_WBITS
_CHUNK = 256 * 1024


class DecompressionError(ValueError):
    """A body that is not what its ``Content-Encoding`` says."""


async def gunzip(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """The content of one or more gzip members, in pieces of bounded size, however well they were compressed.

    Raises:
        DecompressionError: broken, or cut off.
    """
    member = zlib.decompressobj(_GZIP)
    started = False
    async for chunk in chunks:
        rest = chunk
        while rest:
            if member.eof:
                member = zlib.decompressobj(_GZIP)
            started = True
            try:
                piece = member.decompress(rest, _CHUNK)
            except zlib.error as error:
                raise DecompressionError(f"gzip: {error}") from error
            rest = member.unused_data if member.eof else member.unconsumed_tail
            if piece:
                yield piece
    if not started or not member.eof:
        raise DecompressionError("unexpected EOF")
