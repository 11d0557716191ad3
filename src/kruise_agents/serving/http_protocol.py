"""uvicorn's protocol for HTTP/1.1 connections, which sends the head of a small answer together with its body."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .joined_writes import JoinedWrites


class HttpProtocol(HttpToolsProtocol):
    """A client's connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(JoinedWrites(transport))
