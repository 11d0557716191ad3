"""Responses in a stream of bytes: heads, the ends of bodies, and connections for a next request."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Awaitable, Callable

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kruise_agents.manager import unix_http
from kruise_agents.manager.gateway.headers import response_forwarded
from kruise_agents.manager.unix_http import (
    BadResponseError,
    Chunks,
    Exchange,
    HttpConnection,
    KeptConnections,
    read_head,
)
from support.mutations import broken, times

LARGE = b"x" * 700_000
HEADS = [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.0 404 Not Found\nTransfer-Encoding: chunked\nX-Folded: a\n  b\n\n",
]


def body_of(response: bytes, method: str = "GET") -> bytes:
    async def ask() -> bytes:
        ours, theirs = socket.socketpair()
        exchange = await Exchange.on(ours)
        answering = asyncio.create_task(asyncio.to_thread(answer, theirs, response))
        try:
            await exchange.send_head(method, b"/", [(b"host", b"sandbox")])
            await exchange.send_end()
            await exchange.receive_head()
            return b"".join([piece async for piece in exchange.receive_body()])
        finally:
            exchange.close()
            await answering

    return asyncio.run(ask())


def answer(connection: socket.socket, response: bytes) -> None:
    with connection:
        connection.recv(65536)
        connection.sendall(response)


@pytest.mark.parametrize("body", [b"", b"hello", LARGE])
def test_a_body_of_a_known_length_is_whole_and_no_more(body: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert body_of(head + body) == body
    assert body_of(head + body + b"more") == body


@pytest.mark.parametrize("sent", [b"", b"hel", LARGE])
def test_a_body_that_is_cut_is_an_error(sent: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    with pytest.raises(BadResponseError, match="middle of the body"):
        body_of(head + sent)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204)])
def test_a_response_without_a_body_may_speak_of_a_length(method: str, status: int) -> None:
    assert body_of(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status, method) == b""


def test_chunks_win_over_a_length() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert body_of(head + b"5\r\nhello\r\n0\r\n\r\n") == b"hello"


def test_a_body_without_a_length_lasts_until_the_end() -> None:
    assert body_of(b"HTTP/1.1 200 OK\r\n\r\n" + LARGE) == LARGE


CHUNKED = b"5;a=b\r\nhello\r\n1 \n \na\r\nsandboxed!\r\n0\r\nX-End: 1\r\n\r\nmore"


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(CHUNKED)])
def test_chunks_are_decoded_however_they_are_cut(size: int) -> None:
    chunks, content = Chunks(), b""
    for start in range(0, len(CHUNKED), size):
        if not chunks.ended:
            content += chunks.feed(CHUNKED[start : start + size])
    assert content == b"hello sandboxed!"
    assert chunks.ended
    assert b"more".startswith(chunks.rest)


@times(5)
@given(broken(HEADS, [b"", b"\r\n", b"\n", b":", b" ", b"\t", b"\0", b"HTTP/1.1", b"Content-Length: 4\r\n"]))
def test_a_broken_head_is_read_as_another_parser_reads_it_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadResponseError):
        head = read_head(data)
        other = h11.Connection(our_role=h11.CLIENT)
        other.send(h11.Request(method="GET", target="/", headers=[("Host", "sandbox"), ("Upgrade", "websocket")]))
        other.send(h11.EndOfMessage())
        other.receive_data(data)
        with contextlib.suppress(h11.RemoteProtocolError):
            event = other.next_event()
            if isinstance(event, (h11.Response, h11.InformationalResponse)):
                assert (head.status, head.headers) == (event.status_code, list(event.headers))


@times(5)
@given(broken([CHUNKED], [b"", b"\r\n", b"\n", b";", b"0", b"f" * 20, b"-", b" "]), st.integers(1, 9))
def test_broken_chunks_end_or_are_refused(data: bytes, size: int) -> None:
    chunks, content = Chunks(), b""
    with contextlib.suppress(BadResponseError):
        for start in range(0, len(data), size):
            if not chunks.ended:
                content += chunks.feed(data[start : start + size])
    assert len(content) <= len(data)


@pytest.mark.parametrize(
    "body",
    [b"zz\r\n", b"-1\r\n", b"\r\n", b"5\r\nhello!\r\n", b"5 5\r\nhello\r\n", b"0x5\r\nhello\r\n", b"+5\r\nhello"],
)
def test_malformed_chunks_are_refused(body: bytes) -> None:
    with pytest.raises(BadResponseError, match="malformed"):
        Chunks().feed(body)


def test_tiny_chunks_are_decoded_in_steps() -> None:
    chunks, content, steps = Chunks(), b"", 0
    rest = b"1\r\na\r\n" * 10_000 + b"0\r\n\r\nmore"
    while not chunks.ended:
        content += chunks.feed(rest)
        rest = chunks.rest
        steps += 1
    assert (content, rest) == (b"a" * 10_000, b"more")
    assert steps >= 10
    assert body_of(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n"
    ) == (b"a" * 10_000)


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\r\n\n", b"\n\r\n"])
def test_a_head_may_come_byte_by_byte(end: bytes) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        exchange = await Exchange.on(ours)
        receiving = asyncio.create_task(exchange.receive_head())
        with theirs:
            for byte in b"HTTP/1.1 204 X\r\nA: b" + end + b"HTTP/1.1":
                theirs.send(bytes([byte]))
                await asyncio.sleep(0.001)
            assert (await receiving).headers == [(b"a", b"b")]
            assert await exchange.connection.read() == b"HTTP/1.1"
        exchange.abort()

    asyncio.run(run())


def test_a_long_head_that_comes_byte_by_byte_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = 0

    class Counted:
        def search(self, head: bytearray, start: int = 0) -> re.Match[bytes] | None:
            nonlocal searched
            searched += len(head) - start
            return re.compile(rb"\n\r?\n").search(head, start)

    monkeypatch.setattr(unix_http, "_END_OF_HEAD", Counted())

    async def run() -> int:
        ours, theirs = socket.socketpair()
        exchange = await Exchange.on(ours)
        receiving = asyncio.create_task(exchange.receive_head())
        head = b"HTTP/1.1 204 X\r\n" + b"A: b\r\n" * 300 + b"\r\n"
        with theirs:
            for byte in head:
                exchange.connection.data_received(bytes([byte]))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            await receiving
        exchange.abort()
        return len(head)

    assert asyncio.run(run()) <= searched < 10_000


def test_a_head_is_read_as_servers_write_it() -> None:
    head = read_head(b"HTTP/1.0 200\nA:b\r\nX-Long: one\r\n  two\r\nEmpty:\r\nA:  c \r\n\r\n")
    assert (head.version, head.status) == (b"0", 200)
    assert head.headers == [(b"a", b"b"), (b"x-long", b"one two"), (b"empty", b""), (b"a", b"c")]


@pytest.mark.parametrize(
    "lines",
    [b"a: b\n" + b" a\n" * 80_000, b"a:\n" * 80_000, b"content-length:1\n" * 7000 + b"a:\n" * 30_000],
    ids=["folded", "many", "lengths"],
)
def test_the_largest_heads_take_no_longer_than_others(lines: bytes) -> None:
    began = time.process_time()
    head = read_head(b"HTTP/1.1 200 OK\n" + lines + b"\n")
    response_forwarded(head.headers, head.status)
    assert time.process_time() - began < 2  # seconds; with a square of the lines, five and more


@pytest.mark.parametrize("line", [b"HTTP/2 200 OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"http/1.1 200 OK", b""])
def test_another_first_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadResponseError, match="status line"):
        read_head(line + b"\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    "lengths", [b"Content-Length: 5, 5", b"Content-Length: 1_0", b"Content-Length: \xb2", b"Content-Length: +5"]
)
def test_a_length_that_is_no_number_is_refused(lengths: bytes) -> None:
    with pytest.raises(BadResponseError, match="Content-Length"):
        body_of(b"HTTP/1.1 200 OK\r\n" + lengths + b"\r\n\r\nhello")


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CONTINUABLE = {
    "a body of a known length": OK,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "no body": b"HTTP/1.1 204 No Content\r\n\r\n",
}
FINAL = {
    "a body to the end": b"HTTP/1.1 200 OK\r\n\r\nok",
    "a close": b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.0": OK.replace(b"1.1", b"1.0"),
    "more bytes than said": OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
}


def kept_after(
    response: bytes,
    meanwhile: Callable[[socket.socket, Exchange], Awaitable[None]] | None = None,
    *,
    whole: bool = True,
) -> bool:
    """Return whether a connection is there for a next request after an exchange, and after ``meanwhile``."""

    async def run() -> bool:
        ours, theirs = socket.socketpair()
        with theirs:
            exchange = await Exchange.on(ours)
            await exchange.send_head("POST", b"/", [(b"host", b"sandbox"), (b"content-length", b"2")])
            if whole:
                await exchange.send_body(b"ab")
                await exchange.send_end()
            theirs.sendall(response)
            if response == FINAL["a body to the end"]:
                theirs.shutdown(socket.SHUT_WR)
            await exchange.receive_head()
            async for _ in exchange.receive_body():
                pass
            kept = KeptConnections()
            try:
                if not exchange.reusable:
                    return False
                kept.give(1, exchange.connection)
                if meanwhile is not None:
                    await meanwhile(theirs, exchange)
                assert kept.take(2) is None
                return kept.take(1) is exchange.connection
            finally:
                kept.close()
                exchange.abort()

    return asyncio.run(run())


@pytest.mark.parametrize("name", CONTINUABLE)
def test_a_connection_serves_a_next_request_after_a_whole_exchange(name: str) -> None:
    assert kept_after(CONTINUABLE[name])


@pytest.mark.parametrize("name", FINAL)
def test_a_connection_whose_end_is_said_or_unclear_serves_no_next_request(name: str) -> None:
    assert not kept_after(FINAL[name])


def test_a_connection_whose_request_is_unfinished_serves_no_next_request() -> None:
    assert not kept_after(OK, whole=False)


async def closed(theirs: socket.socket, exchange: Exchange) -> None:
    theirs.shutdown(socket.SHUT_RDWR)
    await until(exchange.connection.transport.is_closing)


async def speaking(theirs: socket.socket, exchange: Exchange) -> None:
    theirs.sendall(OK)
    await until(lambda: not exchange.connection.silent)


async def cut(_theirs: socket.socket, exchange: Exchange) -> None:
    exchange.abort()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("meanwhile", [closed, speaking, cut])
def test_a_kept_connection_that_is_closed_or_not_silent_is_never_used(
    meanwhile: Callable[[socket.socket, Exchange], Awaitable[None]],
) -> None:
    assert not kept_after(OK, meanwhile)


def test_a_few_connections_are_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_http, "KEPT_SECONDS", 0.01)

    async def run() -> None:
        pairs = [socket.socketpair() for _ in range(20)]
        connections = [await HttpConnection.on(ours) for ours, _ in pairs]
        kept = KeptConnections()
        for connection in connections:
            kept.give(1, connection)
        assert 0 < sum(connection.silent for connection in connections) < len(connections)
        await until(lambda: not any(connection.silent for connection in connections))
        assert kept.take(1) is None
        for _, theirs in pairs:
            theirs.close()

    asyncio.run(run())


def test_a_stream_whose_other_side_does_not_read_closes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_http, "CLOSE_SECONDS", 0.01)

    async def run() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            exchange = await Exchange.on(ours)
            await exchange.send_head("POST", b"/", [(b"host", b"sandbox"), (b"content-length", b"5000000")])
            sending = asyncio.create_task(exchange.send_body(b"x" * 5_000_000))
            await asyncio.sleep(0.01)
            sending.cancel()
            exchange.close()
            await until(lambda: ours.fileno() == -1)

    asyncio.run(run())
