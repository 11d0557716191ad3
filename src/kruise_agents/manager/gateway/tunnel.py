"""A tunnel of bytes in both directions, after ``101 Switching Protocols``.

The tunnel does not read frames: limits, compression, pings and close codes are up to the two ends. The manager stops
reading from one end while the other end does not read, so the manager's buffers stay small.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Self

STALL_SECONDS = 3600.0
_CHUNK = 256 * 1024
AFTER_EOF_SECONDS = 10.0


@dataclass(slots=True)
class Stream:
    """A connection at one end of a tunnel: to the client, or to the application in a sandbox."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    def on(cls, transport: asyncio.Transport, received: bytes) -> Self:
        """Take a transport over from its protocol, and return a stream that begins with the bytes ``received``."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_CHUNK)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if received:
            reader.feed_data(received)
        return cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


async def join(
    client: Stream, application: Stream, *, stall: float = STALL_SECONDS, after_eof: float = AFTER_EOF_SECONDS
) -> None:
    """Pass bytes in both directions until both directions have ended, then close both ends.

    An end that leaves bytes unread for ``stall`` seconds counts as gone. After the first direction has ended, the
    second direction may go on for ``after_eof`` seconds.
    """
    ends = (client, application)
    directions = [
        asyncio.create_task(_copy(client, application, stall)),
        asyncio.create_task(_copy(application, client, stall)),
    ]
    try:
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        async with asyncio.timeout(after_eof):
            await asyncio.wait(directions)
            for stream in ends:
                stream.writer.close()
                with contextlib.suppress(OSError):
                    await stream.writer.wait_closed()
    except TimeoutError:
        pass  # cut below
    finally:
        for stream in ends:
            stream.writer.transport.abort()
        for direction in directions:
            direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)


async def _copy(source: Stream, sink: Stream, stall: float) -> None:
    # An end that goes away or stalls for too long ends this direction, as the end of its bytes does.
    with contextlib.suppress(OSError, TimeoutError):
        while data := await source.reader.read(_CHUNK):
            sink.writer.write(data)
            async with asyncio.timeout(stall):
                await sink.writer.drain()
    with contextlib.suppress(OSError):
        if sink.writer.can_write_eof():
            sink.writer.write_eof()
        else:  # TLS cannot end one direction
            sink.writer.close()
