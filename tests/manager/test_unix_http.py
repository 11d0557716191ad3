"""The end of a response's body in a stream of bytes."""

from __future__ import annotations

import asyncio
import socket

import h11
import pytest

from kruise_agents.manager.unix_http import Exchange

LARGE = b"x" * 700_000


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
    with pytest.raises(h11.RemoteProtocolError, match="middle of the body"):
        body_of(head + sent)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204)])
def test_a_response_without_a_body_may_speak_of_a_length(method: str, status: int) -> None:
    assert body_of(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status, method) == b""


def test_chunks_win_over_a_length() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert body_of(head + b"5\r\nhello\r\n0\r\n\r\n") == b"hello"


def test_a_body_without_a_length_lasts_until_the_end() -> None:
    assert body_of(b"HTTP/1.1 200 OK\r\n\r\n" + LARGE) == LARGE
