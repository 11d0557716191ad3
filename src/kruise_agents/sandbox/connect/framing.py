"""The frames of streams: one byte of flags, four bytes of length (big endian), then a payload of that length."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import Code, ConnectError

MESSAGE = 0x00
COMPRESSED = 0x01
END_OF_STREAM = 0x02

_PREFIX = struct.Struct(">BI")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A frame, whose flags tell the kind of its payload."""

    flags: int
    payload: bytes

    def encode(self) -> bytes:
        return _PREFIX.pack(self.flags, len(self.payload)) + self.payload


class EnvelopeDecoder:
    """A decoder of frames from a body that arrives in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Envelope]:
        self._buffer += data
        while len(self._buffer) >= _PREFIX.size:
            flags, length = _PREFIX.unpack_from(self._buffer)
            end = _PREFIX.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(memoryview(self._buffer)[_PREFIX.size : end])
            del self._buffer[:end]
            yield Envelope(flags, payload)

    def finish(self) -> None:
        if not self._buffer:
            return
        if len(self._buffer) < _PREFIX.size:
            raise ConnectError(
                Code.INVALID_ARGUMENT,
                f"protocol error: the body ends inside an envelope's prefix,"
                f" after {len(self._buffer)} of {_PREFIX.size} bytes",
            )
        _, length = _PREFIX.unpack_from(self._buffer)
        raise ConnectError(
            Code.INVALID_ARGUMENT,
            f"protocol error: the body ends inside an envelope,"
            f" after {len(self._buffer) - _PREFIX.size} of {length} bytes",
        )


def request_payload(envelope: Envelope) -> bytes:
    """Return the payload of a frame that a client sent.

    Raises ConnectError: ``internal`` for a compressed frame, because no compression is ever agreed on, and
    ``invalid_argument`` for other flags, which a client must not set.
    """
    if envelope.flags == MESSAGE:
        return envelope.payload
    if envelope.flags == COMPRESSED:
        raise ConnectError(Code.INTERNAL, "protocol error: compressed envelope without an agreed compression")
    raise ConnectError(Code.INVALID_ARGUMENT, f"protocol error: invalid envelope flags 0x{envelope.flags:02x}")
