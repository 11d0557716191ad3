"""Content codings of file transfers: ``Accept-Encoding`` of downloads, and gzip bodies of downloads and uploads.

Source: RFC 9110, section 12.5.3.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Literal

from ..errors import HttpError

Coding = Literal["identity", "gzip"]

_GZIP = 16 + zlib.MAX_WBITS
# The fastest level, because compression keeps a processor core busy and helps slow connections only.
_LEVEL = 1
_CHUNK = 256 * 1024


def chosen_coding(header: str) -> Coding:
    """Return "gzip" or "identity" for a response. Raise HttpError 406 if ``header`` is invalid or permits neither.

    The result is gzip if ``Accept-Encoding`` accepts gzip and either names nothing else (e2b's ``read(gzip=True)``) or
    refuses identity. HTTP libraries list several codings, so they get identity, which is fastest for nearby clients.
    """
    weights = _weights(header)
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    identity = weights.get("identity", weights.get("*", 1.0))
    if gzip and (not identity or set(weights) == {"gzip"}):
        return "gzip"
    if not identity:
        raise _not_acceptable("no acceptable encoding, supported: identity, gzip")
    return "identity"


async def gzipped(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield content as one gzip member. A thread compresses each piece."""
    member = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    async for piece in pieces:
        if compressed := await asyncio.to_thread(member.compress, piece):
            yield compressed
    yield member.flush()


async def gunzip(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the decompressed content of gzip data, in pieces of at most 256 KiB. Raise HttpError for invalid data."""
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
                raise not_decodable(f"gzip: {error}") from error
            rest = member.unused_data if member.eof else member.unconsumed_tail
            if piece:
                yield piece
    if not started or not member.eof:
        raise not_decodable("unexpected EOF")


def _weights(header: str) -> dict[str, float]:
    weights = {}
    for item in header.lower().split(","):
        coding, _, parameter = (part.strip() for part in item.partition(";"))
        if not coding:
            continue
        name, _, value = parameter.replace(" ", "").partition("=")
        try:
            weight = float(value) if name == "q" else 1.0
        except ValueError:
            weight = math.nan
        if not 0 <= weight <= 1:
            raise _not_acceptable(f"invalid quality value {value!r}")
        weights[coding] = weight
    return weights


def not_decodable(text: str) -> HttpError:
    """Return the error for a body that cannot be decoded by its ``Content-Encoding``."""
    return HttpError(400, f"error decompressing request body: {text}")


def _not_acceptable(text: str) -> HttpError:
    return HttpError(406, f"error parsing Accept-Encoding: {text}")
