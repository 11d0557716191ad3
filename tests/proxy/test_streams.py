"""Bodies and WebSockets go through the proxy piece by piece, in both directions, and end together."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from support.upstreams import Arrival, Pair, proxied, run

TARGETS = ["/kruise/a/3000/x", "/volumecontent/v/file?path=x"]


async def connected(pair: Pair, head: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", pair.proxy.port)
    writer.write(head.replace("\n", "\r\n").encode())
    return reader, writer


@pytest.mark.parametrize("target", TARGETS)
def test_each_piece_of_an_answer_comes_when_it_was_sent(target: str) -> None:
    go_on = asyncio.Event()

    async def answer(arrival: Arrival) -> None:
        await arrival.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await go_on.wait()
        await arrival.send(b"4\r\nlast\r\n0\r\n\r\n")

    async def scenario() -> None:
        async with proxied(answer) as pair:
            reader, writer = await connected(pair, f"GET {target} HTTP/1.1\nHost: localhost\n\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"transfer-encoding: chunked" in head.lower()
            assert await reader.readexactly(10) == b"5\r\nfirst\r\n"
            go_on.set()
            assert await reader.readexactly(14) == b"4\r\nlast\r\n0\r\n\r\n"
            writer.close()

    run(scenario())


@pytest.mark.parametrize("target", TARGETS)
def test_each_piece_of_a_request_arrives_before_the_next_is_sent(target: str) -> None:
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def answer(arrival: Arrival) -> None:
        assert arrival.headers["transfer-encoding"] == "chunked"
        for _ in range(2):
            await arrived.put(await arrival.reader.readexactly(10))
        assert await arrival.reader.readexactly(5) == b"0\r\n\r\n"
        await arrival.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    async def scenario() -> None:
        async with proxied(answer) as pair:
            head = f"PUT {target} HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n"
            reader, writer = await connected(pair, head)
            for piece in (b"5\r\nfirst\r\n", b"5\r\nother\r\n"):
                writer.write(piece)
                assert await arrived.get() == piece
            writer.write(b"0\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 201 Created\r\n")
            writer.close()

    run(scenario())


@pytest.mark.parametrize("target", [*TARGETS, "/teams"])
def test_the_manager_notices_that_the_client_has_left(target: str) -> None:
    left = asyncio.Event()

    async def answer(arrival: Arrival) -> None:
        with contextlib.suppress(ConnectionError):
            assert await arrival.reader.read() == b""
        left.set()

    async def scenario() -> None:
        async with proxied(answer) as pair:
            _, writer = await connected(pair, f"GET {target} HTTP/1.1\nHost: localhost\n\n")
            while not pair.arrivals:
                await asyncio.sleep(0.01)
            writer.close()
            await left.wait()

    run(scenario())


@pytest.mark.parametrize("target", TARGETS)
def test_an_answer_that_breaks_off_breaks_off_for_the_client(target: str) -> None:
    async def answer(arrival: Arrival) -> None:
        await arrival.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        arrival.writer.close()

    async def scenario() -> None:
        async with proxied(answer) as pair:
            reader, writer = await connected(pair, f"GET {target} HTTP/1.1\nHost: localhost\n\n")
            with contextlib.suppress(ConnectionError):
                assert (await reader.read()).endswith(b"half")
            writer.close()

    run(scenario())


@pytest.mark.parametrize("host", ["3000-a.localhost", "localhost"])
def test_a_web_socket_goes_both_ways(host: str) -> None:
    async def answer(arrival: Arrival) -> None:
        assert arrival.request_line == "GET /kruise/a/3000/ws HTTP/1.1"
        assert arrival.headers["upgrade"] == "websocket"
        switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello"
        await arrival.send(switched)
        while data := await arrival.reader.read(100):
            await arrival.send(data.upper())
        arrival.writer.close()

    async def scenario() -> None:
        async with proxied(answer) as pair:
            path = "/ws" if host != "localhost" else "/kruise/a/3000/ws"
            upgrade = "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Key: x"
            reader, writer = await connected(pair, f"GET {path} HTTP/1.1\nHost: {host}\n{upgrade}\n\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
            assert await reader.readexactly(5) == b"hello"
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"PING"
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()

    run(scenario())


def test_many_streams_are_open_at_once() -> None:
    everybody, count = asyncio.Event(), 100

    async def answer(arrival: Arrival) -> None:
        await arrival.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
        await everybody.wait()
        await arrival.send(b"z")

    async def scenario() -> None:
        async with proxied(answer) as pair:
            head = "GET /kruise/a/3000/ HTTP/1.1\nHost: localhost\n\n"
            streams = [await connected(pair, head) for _ in range(count)]
            for reader, _ in streams:
                await reader.readuntil(b"\r\n\r\na")
            everybody.set()
            for reader, writer in streams:
                assert await reader.readexactly(1) == b"z"
                writer.close()

    run(scenario())
