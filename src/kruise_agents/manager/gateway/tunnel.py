"""A connection that stays open after ``101 Switching Protocols``: bytes both ways, as they are.

Frames are not read here. Their limits, compression, pings and close codes are a matter of the two ends, and what one
end sends costs the manager no memory while the other does not read it.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Self

TAKE_OVER = "kruise_agents.take_over"
"""In the ``extensions`` of a handshake's scope: a function that gives the client's :class:`Stream`."""

STALL_SECONDS = 3600.0
_CHUNK = 256 * 1024
AFTER_EOF_SECONDS = 10.0


@dataclass(slots=True)
class Stream:
    """One of the two connections of a tunnel."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    def on(cls, transport: asyncio.Transport, received: bytes) -> Self:
        """Take a transport over from its protocol.

        Parameters:
            received: what the old protocol had read and not used.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_CHUNK)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if received:
            reader.feed_data(received)
        return cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


async def join(
    one: Stream, other: Stream, *, stall: float = STALL_SECONDS, after_eof: float = AFTER_EOF_SECONDS
) -> None:
    """Pass bytes both ways until both directions have ended, or the second does not follow the first; then cut both.

    Parameters:
        stall: seconds after which a side that takes nothing of what was sent to it counts as gone.
        after_eof: how many seconds the second direction may take to end after the first.
    """
    directions = [asyncio.create_task(_copy(one, other, stall)), asyncio.create_task(_copy(other, one, stall))]
    try:
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        async with asyncio.timeout(after_eof):
            await asyncio.wait(directions)
            for stream in (one, other):
                stream.writer.close()
                with contextlib.suppress(OSError):
                    await stream.writer.wait_closed()
    except TimeoutError:
        pass  # cut below, as everything that has not ended by then
    finally:
        for stream in (one, other):
            stream.writer.transport.abort()
        for direction in directions:
            direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)


async def _copy(source: Stream, sink: Stream, stall: float) -> None:
    # Either side going away, or standing still for too long, is an end like others.
    with contextlib.suppress(OSError, TimeoutError):
        while data := await source.reader.read(_CHUNK):
            sink.writer.write(data)
            async with asyncio.timeout(stall):
                await sink.writer.drain()
    with contextlib.suppress(OSError):
        if sink.writer.can_write_eof():
            sink.writer.write_eof()
        else:  # TLS knows no end of one direction
            sink.writer.close()
