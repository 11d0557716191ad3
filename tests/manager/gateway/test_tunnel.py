"""Time limits of the gateway: for a tunnel whose end takes no bytes, and for a port that does not accept."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kruise_agents.manager.gateway.tunnel import Stream, join
from kruise_agents.manager.sandboxes import sockets
from kruise_agents.manager.sandboxes.sockets import PortClosedError, connect_port, listen
from kruise_agents.protocol.control import RELAY_SOCKET

SHORT, LONG = 0.05, 3600.0
MORE_THAN_FITS = b"x" * 8_000_000


class Ends:
    """Both ends of a tunnel, as the client and the application have them."""

    def __init__(self, client: socket.socket, application: socket.socket, tunnel: asyncio.Task[None]) -> None:
        self.client = client
        self.application = application
        self.tunnel = tunnel

    async def pass_on(self, data: bytes) -> bytes:
        """Send from the client, and what comes out."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.client, data)
        return await loop.sock_recv(self.application, len(data))


@contextlib.asynccontextmanager
async def tunnel(*, stall: float = LONG, after_eof: float = LONG) -> AsyncIterator[Ends]:
    ends, streams = [], []
    for _ in range(2):
        outer, inner = socket.socketpair()
        outer.setblocking(False)
        ends.append(outer)
        streams.append(Stream(*await asyncio.open_connection(sock=inner)))
    joined = asyncio.create_task(join(*streams, stall=stall, after_eof=after_eof))
    try:
        yield Ends(ends[0], ends[1], joined)
    finally:
        for end in ends:
            end.close()
        await asyncio.wait_for(joined, 10)


def test_an_end_that_takes_nothing_for_too_long_is_cut_and_a_quiet_tunnel_stays() -> None:
    async def run() -> None:
        async with tunnel(stall=SHORT) as quiet, tunnel(stall=SHORT, after_eof=SHORT) as stalled:
            assert await quiet.pass_on(b"before") == b"before"
            sending = asyncio.get_running_loop().sock_sendall(stalled.client, MORE_THAN_FITS)
            with pytest.raises(OSError, match=r"reset|Broken pipe"):
                await asyncio.wait_for(sending, 10)
            await asyncio.wait_for(stalled.tunnel, 10)
            assert not quiet.tunnel.done()
            assert await quiet.pass_on(b"after") == b"after"

    asyncio.run(run())


def test_an_end_that_takes_something_in_time_is_not_cut() -> None:
    async def run() -> None:
        async with tunnel() as slow:
            loop = asyncio.get_running_loop()
            sending = asyncio.create_task(loop.sock_sendall(slow.client, MORE_THAN_FITS))
            taken = 0
            while taken < len(MORE_THAN_FITS):
                taken += len(await loop.sock_recv(slow.application, 100_000))
            await sending
            assert not slow.tunnel.done()

    asyncio.run(run())


def test_a_direction_that_does_not_follow_the_other_is_cut() -> None:
    async def run() -> None:
        async with tunnel(after_eof=SHORT) as half:
            half.client.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(half.tunnel, 10)
            loop = asyncio.get_running_loop()
            assert await asyncio.wait_for(loop.sock_recv(half.client, 1), 10) == b""

    asyncio.run(run())


def test_a_relay_that_does_not_answer_is_a_closed_port(tmp_path: Path) -> None:
    with listen(tmp_path, RELAY_SOCKET), pytest.raises(PortClosedError):
        asyncio.run(asyncio.wait_for(connect_port(tmp_path, 8080, frozenset(), SHORT), 10))


@pytest.mark.parametrize(("port", "name"), [(8080, RELAY_SOCKET), (49983, "envd")])
def test_a_listen_queue_that_stays_full_is_a_closed_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int, name: str
) -> None:
    monkeypatch.setattr(sockets, "_BACKLOG", 0)
    with listen(tmp_path, name), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(tmp_path / name))
        with pytest.raises(PortClosedError):
            asyncio.run(asyncio.wait_for(connect_port(tmp_path, port, frozenset({49983}), SHORT), 10))


def test_a_listen_queue_that_empties_in_time_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_BACKLOG", 0)

    async def run(listener: socket.socket) -> None:
        waiting = asyncio.create_task(connect_port(tmp_path, 49983, frozenset({49983}), LONG))
        await asyncio.sleep(0)
        assert not waiting.done()
        listener.accept()[0].close()
        (await asyncio.wait_for(waiting, 10)).close()

    with listen(tmp_path, "envd") as listener, socket.socket(socket.AF_UNIX) as first:
        first.connect(str(tmp_path / "envd"))
        asyncio.run(run(listener))
