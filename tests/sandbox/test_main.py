"""The sockets that programs in a sandbox connect to."""

from __future__ import annotations

import asyncio
import socket

from kruise_agents.sandbox.main import loopback_listener


def test_small_answers_on_loopback_do_not_wait() -> None:
    """asyncio sets TCP_NODELAY only for a listener that names its protocol."""

    async def accepted() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def on_connection(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            found.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with loopback_listener(0) as listener:
            async with await asyncio.start_server(on_connection, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                try:
                    return await found
                finally:
                    writer.close()

    assert asyncio.run(accepted()) != 0
