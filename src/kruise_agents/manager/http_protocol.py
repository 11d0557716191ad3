"""uvicorn's HTTP/1.1 protocol with a limit on the size of a request's head, and errors that say what was wrong."""

from __future__ import annotations

import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .gateway.http import ResponseCutError

MAX_HEAD_BYTES = 64 * 1024
MAX_HANDSHAKE_LINE_BYTES = 8000
MAX_HANDSHAKE_HEADERS = 120


class GuardedHttpProtocol(HttpToolsProtocol):
    """Refuses requests whose request line and headers together are larger than :data:`MAX_HEAD_BYTES`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = True

    def data_received(self, data: bytes) -> None:
        """Hook of asyncio: count what comes before a head is complete."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, "Request Header Fields Too Large", _TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Hook of the parser."""
        self._in_head = False
        self._head_bytes = 0
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > MAX_HEAD_BYTES:
            raise ValueError(_TOO_LARGE)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Hook of the parser: what comes next is another head."""
        super().on_message_complete()
        self._in_head = True

    def handle_websocket_upgrade(self) -> None:
        """Hook of uvicorn: what reads the handshake next would never answer one that is too large for it."""
        longest = max(len(name) + len(value) for name, value in self.headers)
        if longest > MAX_HANDSHAKE_LINE_BYTES or len(self.headers) > MAX_HANDSHAKE_HEADERS:
            self._refuse(
                431,
                "Request Header Fields Too Large",
                f"a WebSocket handshake may have {MAX_HANDSHAKE_HEADERS} headers, "
                f"each of {MAX_HANDSHAKE_LINE_BYTES} bytes at most",
            )
        else:
            super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Hook of uvicorn for everything that is no HTTP request."""
        if sum(len(name) + len(value) for name, value in getattr(self, "headers", [])) > MAX_HEAD_BYTES:
            self._refuse(431, "Request Header Fields Too Large", _TOO_LARGE)
        else:
            self._refuse(400, "Bad Request", "this is not a well-formed HTTP/1.1 request")

    def _refuse(self, status: int, phrase: str, message: str) -> None:
        body = message.encode()
        self.transport.write(
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        self.transport.close()


class OrdinaryEnds(logging.Filter):
    """Keeps out of the log what uvicorn calls an error and is an ordinary end of a forwarded request."""

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a sandbox that went away in the middle of a response, and for a handshake that was refused."""
        cut = record.exc_info is not None and isinstance(record.exc_info[1], ResponseCutError)
        return not cut and record.msg != "ASGI callable returned without completing handshake."


_TOO_LARGE = f"the request line and headers are larger than {MAX_HEAD_BYTES} bytes together"
