"""A transport that saves system calls."""

from __future__ import annotations

import asyncio
from typing import Any

_SMALL = 16 * 1024


class JoinedWrites(asyncio.Transport):
    """A transport that sends a small write together with the next write.

    Without a next write, the bytes are sent when the event loop comes round. Programs write the head and the body of a
    message one after the other. Two system calls for them would cost more than all else in a small message, because
    each call wakes the other side.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self.inner = transport
        self._loop = asyncio.get_running_loop()
        self._held = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        elif len(data) <= _SMALL:
            if data:
                self._held = bytes(data)
                self._loop.call_soon(self.flush)
            return
        self.inner.write(data)

    def flush(self) -> None:
        """Send the bytes that wait for a next write."""
        if self._held:
            data, self._held = self._held, b""
            self.inner.write(data)

    def close(self) -> None:
        self.flush()
        self.inner.close()

    def abort(self) -> None:
        self._held = b""
        self.inner.abort()

    def write_eof(self) -> None:
        self.flush()
        self.inner.write_eof()

    def can_write_eof(self) -> bool:
        return self.inner.can_write_eof()

    def is_closing(self) -> bool:
        return self.inner.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.inner.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self.inner.pause_reading()

    def resume_reading(self) -> None:
        self.inner.resume_reading()
