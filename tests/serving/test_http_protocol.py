"""Bodies of requests, which the protocol passes to the application with few copies."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from kruise_agents.serving import Server


class Slow:
    """An application that reads a body only after all of the body has come, and keeps the pieces."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()
        self.pieces: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.may_read.wait()
        more = True
        while more:
            message = await receive()
            self.pieces.append(message["body"])
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


@pytest.mark.parametrize("chunks", [[], [b"one"], [b"one", b"two", b"three"], [b"x"] * 3000], ids=[0, 1, 3, 3000])
def test_a_body_that_waits_for_the_application_arrives_whole(chunks: list[bytes]) -> None:
    async def run() -> list[Any]:
        app = Slow()
        listener = socket.create_server(("127.0.0.1", 0))
        server = Server(app, [listener])
        await server.start()
        try:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            for chunk in [*chunks, b""]:
                writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                await writer.drain()
            (connection,) = await connected(server)
            async with asyncio.timeout(20):
                while connection.cycle is None or connection.cycle.more_body:
                    await asyncio.sleep(0)
                app.may_read.set()
                assert (await reader.readline()).startswith(b"HTTP/1.1 204")
            writer.close()
        finally:
            await server.stop()
        return app.pieces

    pieces = asyncio.run(run())
    assert b"".join(pieces) == b"".join(chunks)


async def connected(server: Server) -> set[Any]:
    async with asyncio.timeout(20):
        while not server.server_state.connections:
            await asyncio.sleep(0)
    return server.server_state.connections
