"""uvicorn's protocol for HTTP/1.1 connections, with fewer system calls and with fewer copies of a request's body."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .joined_writes import JoinedWrites


class HttpProtocol(HttpToolsProtocol):
    """A client's connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(JoinedWrites(transport))

    def on_body(self, body: bytes) -> None:
        # uvicorn copies each piece into a bytearray, and again for the application.
        held = self.cycle.body
        if not held:
            self.cycle.body, body = body, b""  # type: ignore[assignment]  # the cycle passes any bytes on
        elif isinstance(held, bytes):
            self.cycle.body = bytearray(held)
        super().on_body(body)
