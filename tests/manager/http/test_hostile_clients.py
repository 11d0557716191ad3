"""Hostile requests to the manager's port, byte by byte."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator

import pytest

from support.fronts import CLOSED_PORT, SANDBOXES, Front, read_all, read_until, running_front
from support.managers import wait_for

HOST = b"Host: d.example\r\n"
SMUGGLED = b"GET /kruise/sb2/3000/smuggled HTTP/1.1\r\nHost: d.example\r\n\r\n"


@pytest.fixture(scope="module")
def shared_front() -> Iterator[Front]:
    with running_front() as front:
        yield front


@pytest.fixture
def front(shared_front: Front) -> Iterator[Front]:
    shared_front.arrivals.clear()
    shared_front.api_calls.clear()
    shared_front.answers.clear()
    shared_front.stops_reading.clear()
    yield shared_front
    # Whatever a test has sent: the front serves the next one.
    assert b"200 OK" in shared_front.ask(
        b"GET /kruise/sb1/3000/after HTTP/1.1\r\nHost: d.example\r\nConnection: close\r\n\r\n"
    )


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def count_of(answers: bytes) -> int:
    return len(re.findall(rb"HTTP/1\.1 [0-9]{3} ", answers))


REFUSED = {
    "a length and chunks": (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks and a length": (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
    "the same length twice": (b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "a list of lengths": (b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "a length with a plus": (b"Content-Length: +5\r\n\r\nhello", 400),
    "a negative length": (b"Content-Length: -5\r\n\r\nhello", 400),
    "a hexadecimal length": (b"Content-Length: 0x5\r\n\r\nhello", 400),
    "a length with a blank inside": (b"Content-Length: 1 0\r\n\r\nhello", 400),
    "an empty length": (b"Content-Length:\r\n\r\nhello", 400),
    "a length of thirty digits": (b"Content-Length: 999999999999999999999999999999\r\n\r\nhello", 400),
    "two transfer codings": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
    "a coding before chunked": (b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "a coding after chunked": (b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501),
    "a coding that only looks like chunked": (b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "chunked in quotes": (b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 501),
    "a vertical tab before chunked": (b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "a blank before the colon": (b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "a tab before the colon": (b"Content-Length\t: 5\r\n\r\nhello", 400),
    "a folded header": (b"X-A: 1\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a folded coding": (b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "a header that begins with a blank": (b" X-A: 1\r\n\r\n", 400),
    "a line without a colon": (b"nothing\r\n\r\n", 400),
    "a header without a name": (b": x\r\n\r\n", 400),
    "a bare line feed": (b"X-A: 1\nX-B: 2\r\n\r\n", 400),
    "line feeds only at the end": (b"X-A: 1\r\n\n", 400),
    "a bare carriage return": (b"X-A: 1\rX-B: 2\r\n\r\n", 400),
    "a carriage return before the end": (b"X-A: 1\r\r\n\r\n", 400),
    "a NUL in a value": (b"X-A: 1\x002\r\n\r\n", 400),
    "a NUL in a name": (b"X\x00A: 1\r\n\r\n", 400),
    "another Host": (b"Host: other.example\r\n\r\n", 400),
    "another sandbox id": (b"E2b-Sandbox-Id: sb1\r\nE2b-Sandbox-Id: sb2\r\n\r\n", 400),
    "another key": (b"X-API-Key: one\r\nX-API-Key: two\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_understood_in_two_ways_is_refused_and_ends_the_connection(name: str, front: Front) -> None:
    headers, status = REFUSED[name]
    answer = front.ask(b"POST /kruise/sb1/3000/x HTTP/1.1\r\n" + HOST + headers + SMUGGLED)
    assert status_of(answer) == status
    assert count_of(answer) == 1
    assert (front.arrivals, front.api_calls) == ([], [])


REQUEST_LINES = {
    b"GET /kruise/sb1/3000/": 400,
    b"GET  /kruise/sb1/3000/ HTTP/1.1": 400,
    b"GET /kruise/sb1/3000/\tHTTP/1.1": 400,
    b" GET /kruise/sb1/3000/ HTTP/1.1": 400,
    b"GET /kruise/sb1/3000/ HTTP/1.1 ": 400,
    b"GET /kruise/sb1/3000/ http/1.1": 400,
    b"GET /kruise/sb1/3000/ HTTP/0.9": 505,
    b"GET /kruise/sb1/3000/ HTTP/2.0": 505,
    b"GET /kruise/sb1/3000/ HTTP/1.10": 400,
    b"PRI * HTTP/2.0": 505,
    b"G@T /kruise/sb1/3000/ HTTP/1.1": 400,
    b"JUMP /kruise/sb1/3000/ HTTP/1.1": 501,
    b"CONNECT d.example:443 HTTP/1.1": 405,
    b"CONNECT /kruise/sb1/3000/ HTTP/1.1": 405,
    b"OPTIONS * HTTP/1.1": 400,
    b"GET kruise/sb1/3000/ HTTP/1.1": 400,
    b"GET /kruise/sb1/3000/#/kruise/api HTTP/1.1": 400,
    b"GET /kruise/sb1/3000/\xc3\xa4 HTTP/1.1": 400,
    b"GET http://other.example/kruise/sb1/3000/ HTTP/1.1": 400,
    b"GET http://d.example@other.example/kruise/sb1/3000/ HTTP/1.1": 400,
    b"GET http://api.d.example/sandboxes HTTP/1.1": 400,
    b"GET ftp://d.example/kruise/sb1/3000/ HTTP/1.1": 400,
    b"GET http:///kruise/sb1/3000/ HTTP/1.1": 400,
}


@pytest.mark.parametrize("line", REQUEST_LINES, ids=lambda line: line.decode("latin-1"))
def test_a_request_line_that_is_not_http_is_refused(line: bytes, front: Front) -> None:
    answer = front.ask(line + b"\r\n" + HOST + b"\r\n")
    assert status_of(answer) == REQUEST_LINES[line]
    assert (front.arrivals, front.api_calls) == ([], [])


@pytest.mark.parametrize(
    "host", [b"a b", b"d.example/kruise", b"u@d.example", b"d.example?x", b"d.ex\xc3\xa4mple", b"a\\b"]
)
def test_a_host_that_is_no_host_is_refused(host: bytes, front: Front) -> None:
    assert status_of(front.ask(b"GET /kruise/sb1/3000/ HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")) == 400


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (b"http://d.example/kruise/sb1/3000/a?b", b"/a?b"),
        (b"HTTP://D.EXAMPLE/kruise/sb1/3000/a", b"/a"),
        (b"/kruise/sb1/3000/a?", b"/a?"),
    ],
)
def test_an_absolute_target_of_the_same_host_is_served(line: bytes, target: bytes, front: Front) -> None:
    front.ask(b"GET " + line + b" HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
    assert [arrival.request_line for arrival in front.arrivals] == [b"GET " + target + b" HTTP/1.1"]


MALFORMED_CHUNKS = [
    b"zz\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    b"\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nContent-Length: 99\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX : 1\r\n\r\n",
]


@pytest.mark.parametrize("chunks", MALFORMED_CHUNKS)
def test_a_body_whose_chunks_are_malformed_is_refused_and_what_follows_it_is_not_served(
    chunks: bytes, front: Front
) -> None:
    answer = front.ask(
        b"POST /kruise/sb1/3000/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n" + chunks + SMUGGLED
    )
    assert status_of(answer) == 400
    assert count_of(answer) == 1
    assert all(arrival.sandbox_id == "sb1" and arrival.body is None for arrival in front.arrivals)


def test_a_malformed_body_after_an_expectation_ends_the_request_in_the_sandbox(front: Front) -> None:
    head = b"POST /kruise/sb1/3000/x HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n" + HOST
    assert status_of(front.ask(head + b"\r\nzz\r\n")) == 400
    wait_for(lambda: all(arrival.ended for arrival in front.arrivals), what="the end of the request in the sandbox")


def test_chunk_extensions_and_trailers_end_at_the_gateway(front: Front) -> None:
    trailers = b"E2b-Sandbox-Id: sb2\r\nX-API-Key: k\r\nHost: other\r\n"
    with front.connect() as connection:
        connection.sendall(
            b"POST /kruise/sb1/3000/x HTTP/1.1\r\nTransfer-Encoding: Chunked\r\nTrailer: Host\r\n"
            + HOST
            + b"\r\n5;name=value\r\nhello\r\n0\r\n"
            + trailers
            + b"\r\n"
        )
        assert status_of(read_until(connection, b"ok")) == 200
    (arrival,) = front.arrivals
    assert (arrival.sandbox_id, arrival.body) == ("sb1", b"hello")
    names = [name for name, _ in arrival.headers]
    assert sorted(names) == [b"host", b"transfer-encoding", b"x-request-id"]
    assert dict(arrival.headers)[b"host"] == b"d.example"


@pytest.mark.parametrize("path", [b"/kruise/sb1/3000/x", b"/kruise/api/sandboxes"])
def test_a_trailer_that_says_close_ends_the_connection_after_the_answer(path: bytes, front: Front) -> None:
    # The parser drops what follows such a message, so a next request would never be answered.
    head = b"POST " + path + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST
    answer = front.ask(head + b"\r\n0\r\nConnection: close\r\n\r\n" + SMUGGLED)
    assert count_of(answer) == 1
    assert [arrival.sandbox_id for arrival in front.arrivals] in (["sb1"], [])


@pytest.mark.parametrize(
    "flood", [b"5;" + b"x" * 200_000, b"0\r\n" + b"x: y\r\n" * 40_000, b"0\r\nx: " + b"y" * 200_000]
)
def test_endless_chunk_extensions_and_trailers_are_cut(flood: bytes, front: Front) -> None:
    head = b"POST /kruise/sb1/3000/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n"
    with front.connect() as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(head + flood)
        answer = read_all(connection)
    assert answer == b"" or status_of(answer) == 431


class TestOneRequestAtATime:
    def test_requests_that_follow_each_other_are_answered_in_order(self, front: Front) -> None:
        with front.connect() as connection:
            for number in range(3):
                connection.sendall(
                    b"POST /kruise/sb1/3000/%d HTTP/1.1\r\nContent-Length: 2\r\n%b\r\nab" % (number, HOST)
                )
                assert status_of(read_until(connection, b"ok")) == 200
        assert [arrival.request_line for arrival in front.arrivals] == [
            b"POST /%d HTTP/1.1" % number for number in range(3)
        ]

    def test_a_request_that_comes_too_early_is_answered_after_the_one_before(self, front: Front) -> None:
        one = b"POST /kruise/sb1/3000/%d HTTP/1.1\r\nContent-Length: 2\r\n" + HOST + b"\r\nab"
        answer = front.ask(one % 1 + one % 2 + (one % 3).replace(b"Host", b"Connection: close\r\nHost"))
        assert answer.count(b"200 OK") == 3
        assert [arrival.request_line.split()[1] for arrival in front.arrivals] == [b"/1", b"/2", b"/3"]
        assert [arrival.body for arrival in front.arrivals] == [b"ab"] * 3

    def test_a_request_that_follows_a_chunked_body_too_early_is_read_as_strictly(self, front: Front) -> None:
        body = b"Transfer-Encoding: chunked\r\n" + HOST + b"\r\n2\r\nab\r\n0\r\n\r\n"
        last = SMUGGLED.replace(b"Host", b"Connection: close\r\nHost")
        answer = front.ask(b"POST /kruise/sb1/3000/1 HTTP/1.1\r\n" + body + last)
        assert answer.count(b"200 OK") == 2
        assert [(arrival.sandbox_id, arrival.body) for arrival in front.arrivals] == [("sb1", b"ab"), ("sb2", b"")]
        answer = front.ask(b"POST /kruise/sb1/3000/1 HTTP/1.1\r\n" + body + b"GET /kruise/sb2/3000/ HTTP/1.1\n\n")
        assert (answer.count(b"200 OK"), answer.count(b"400 Bad Request")) == (1, 1)

    @pytest.mark.parametrize("cut", [0, 1, 5, 9, 10, 13, 17, 20, 22, 23, 24, 25, 30])
    def test_the_end_of_a_body_after_its_answer_may_come_with_the_next_request(self, cut: int, front: Front) -> None:
        head = b"POST /kruise/sb1/%d/first HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n2\r\nab\r\n"
        rest = b"1;x=y\r\nc\r\n0\r\nX: y\r\n\r\nDELETE /kruise/api/next HTTP/1.1\r\n" + HOST + b"\r\n"
        with front.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(head % CLOSED_PORT)
            assert status_of(read_until(connection, b"}")) == 502
            connection.sendall(rest[:cut])
            connection.sendall(rest[cut:])
            assert status_of(read_until(connection, b"api")) == 200
        assert front.api_calls == [("DELETE", "/next")]

    def test_a_flood_of_early_requests_is_cut_off(self, front: Front) -> None:
        front.answers[3001] = []  # never answers
        with front.connect() as connection:
            connection.sendall(b"GET /kruise/sb1/3001/ HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED * 10_000)
            wait_for(lambda: front.arrivals, what="the first request")
        wait_for(lambda: front.arrivals[0].ended, what="the end of the first request")
        assert len(front.arrivals) == 1

    def test_a_client_that_leaves_is_noticed_although_it_had_sent_more(self, front: Front) -> None:
        front.answers[3001] = []
        with front.connect() as connection:
            connection.sendall(b"GET /kruise/sb1/3001/ HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED)
            wait_for(lambda: front.arrivals, what="the first request")
        wait_for(lambda: front.arrivals[0].ended, what="the end of the first request")
        assert len(front.arrivals) == 1

    def test_a_body_that_nobody_reads_is_not_the_next_request(self, front: Front) -> None:
        body = SMUGGLED * 3
        with front.connect() as connection:
            head = b"POST /kruise/sb1/%d/x HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n"
            connection.sendall(head % (CLOSED_PORT, HOST, len(body)))
            assert status_of(read_until(connection, b"}")) == 502
            connection.sendall(body)
            connection.sendall(b"GET /kruise/sb1/3000/next HTTP/1.1\r\n" + HOST + b"\r\n")
            assert status_of(read_until(connection, b"ok")) == 200
        assert [arrival.request_line for arrival in front.arrivals] == [b"GET /next HTTP/1.1"]

    def test_an_answer_before_the_end_of_the_body_leaves_the_connection_usable(self, front: Front) -> None:
        front.answers[3001] = [b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"]
        with front.connect() as connection:
            connection.sendall(b"POST /kruise/sb1/3001/x HTTP/1.1\r\n" + HOST + b"Content-Length: 200000\r\n\r\n")
            assert status_of(read_until(connection, b"no")) == 413
            connection.sendall(b"y" * 200_000 + b"GET /kruise/sb1/3000/next HTTP/1.1\r\n" + HOST + b"\r\n")
            assert status_of(read_until(connection, b"ok")) == 200


class TestUpgrades:
    @pytest.mark.parametrize("protocol", [b"h2c", b"TLS/1.0", b"websocket, h2c", b"websocket/13", b"WebSockets"])
    def test_an_upgrade_to_something_else_is_a_plain_request_with_its_whole_body(
        self, protocol: bytes, front: Front
    ) -> None:
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\nHTTP2-Settings: AAMAAABk\r\n"
        with front.connect() as connection:
            head = b"POST /kruise/sb1/3000/x HTTP/1.1\r\n" + HOST + upgrade
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED))
            wait_for(lambda: front.arrivals, what="the request in the sandbox")
            connection.sendall(SMUGGLED)
            assert status_of(read_until(connection, b"ok")) == 200
            connection.sendall(b"GET /kruise/sb1/3000/next HTTP/1.1\r\n" + HOST + upgrade + b"\r\n")
            assert status_of(read_until(connection, b"ok")) == 200
        assert [arrival.body for arrival in front.arrivals] == [SMUGGLED, b""]
        assert {arrival.sandbox_id for arrival in front.arrivals} == {"sb1"}
        for arrival in front.arrivals:
            assert {name for name, _ in arrival.headers}.isdisjoint({b"upgrade", b"connection", b"http2-settings"})

    @pytest.mark.parametrize(
        "line", [b"POST /kruise/sb1/3000/ HTTP/1.1", b"GET /kruise/sb1/3000/ HTTP/1.0", b"GET /kruise/api/x HTTP/1.1"]
    )
    def test_a_websocket_begins_with_get_of_http_1_1_at_a_sandbox(self, line: bytes, front: Front) -> None:
        answer = front.ask(line + b"\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n" + HOST + b"\r\n")
        assert status_of(answer) == 200
        assert not any(name == b"upgrade" for arrival in front.arrivals for name, _ in arrival.headers)

    def test_a_handshake_with_a_body_is_a_plain_request(self, front: Front) -> None:
        handshake = b"Upgrade: websocket\r\nConnection: Upgrade\r\n" + HOST
        with front.connect() as connection:
            connection.sendall(b"GET /kruise/sb1/3000/ HTTP/1.1\r\n" + handshake + b"Content-Length: 5\r\n\r\nhello")
            assert status_of(read_until(connection, b"ok")) == 200
        assert front.arrivals[0].body == b"hello"
        assert b"upgrade" not in dict(front.arrivals[0].headers)

    def test_a_refused_handshake_opens_no_tunnel(self, front: Front) -> None:
        handshake = b"GET /kruise/sb1/3000/ HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + HOST + b"\r\n"
        with front.connect() as connection:
            connection.sendall(handshake)
            assert status_of(read_until(connection, b"ok")) == 200
            connection.sendall(SMUGGLED)
            assert status_of(read_until(connection, b"ok")) == 200
        assert [arrival.sandbox_id for arrival in front.arrivals] == ["sb1", "sb2"]

    def test_an_accepted_handshake_passes_bytes_as_they_are(self, front: Front) -> None:
        front.answers[3001] = [ACCEPTED + b"\x81\x02hi"]
        with front.connect() as connection:
            connection.sendall(HANDSHAKE + b"\x89\x00")
            assert read_until(connection, b"hi").startswith(b"HTTP/1.1 101 ")
            connection.sendall(SMUGGLED)
            wait_for(lambda: front.arrivals[0].data.endswith(b"\x89\x00" + SMUGGLED), what="the bytes in the sandbox")
        wait_for(lambda: front.arrivals[0].ended, what="the end of the tunnel in the sandbox")
        assert [arrival.sandbox_id for arrival in front.arrivals] == ["sb1"]
        sent = front.arrivals[0].headers
        assert (b"upgrade", b"websocket") in sent
        assert (b"sec-websocket-key", b"x") in sent


def test_what_comes_before_the_answer_to_a_handshake_is_limited(front: Front) -> None:
    front.answers[3001] = []  # never answers
    with front.connect() as connection:
        connection.sendall(HANDSHAKE)
        wait_for(lambda: front.arrivals, what="the handshake in the sandbox")
        for _ in range(100):
            connection.sendall(b"z" * 10_000)  # is taken and dropped, so that the end is noticed
    wait_for(lambda: front.arrivals[0].ended, what="the end in the sandbox")


@pytest.mark.parametrize("switched", [True, False])
def test_a_client_that_stops_reading_stops_the_sandbox_instead_of_filling_the_manager(
    switched: bool, front: Front
) -> None:
    front.answers[3001] = [ACCEPTED if switched else b"HTTP/1.1 200 OK\r\n\r\n", *[b"z" * 65536] * 2000]
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", front.port))
        connection.sendall(HANDSHAKE if switched else b"GET /kruise/sb1/3001/ HTTP/1.1\r\n" + HOST + b"\r\n")
        wait_for(lambda: front.arrivals and front.arrivals[0].sent > 500_000, what="what fits into all buffers")
        arrival = front.arrivals[0]
        for _ in range(100):  # while others are served, nothing more is taken
            assert b"200 OK" in front.ask(b"GET /kruise/sb1/3000/ HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
        assert arrival.sent < 20_000_000
        assert not arrival.ended
    wait_for(lambda: arrival.ended, what="the end in the sandbox")


@pytest.mark.parametrize("flood", [b"\x89\x80\0\0\0\0", b"\x00\x80\0\0\0\0", b"\x8a\x80\0\0\0\0", b"\xff"])
def test_floods_of_frames_are_stopped_by_the_application_that_does_not_read_them(flood: bytes, front: Front) -> None:
    front.answers[3001] = [ACCEPTED]
    front.stops_reading.add(3001)
    with front.connect() as connection:
        connection.settimeout(0.5)
        connection.sendall(HANDSHAKE)
        read_until(connection, b"\r\n\r\n")
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 200_000_000:
                sent += connection.send(flood * 10_000)
        assert sent < 50_000_000
        assert b"200 OK" in front.ask(b"GET /kruise/sb1/3000/ HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")


HANDSHAKE = (
    b"GET /kruise/sb1/3001/ws HTTP/1.1\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: x\r\n" + HOST + b"\r\n"
)
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: y\r\n\r\n"
)


PATHS = {
    b"/kruise/sb1/3000/../../sb2/3000/x": ("sb1", b"/../../sb2/3000/x"),
    b"/kruise/sb1/3000/%2e%2e/%2e%2e/sb2/3000/x": ("sb1", b"/%2e%2e/%2e%2e/sb2/3000/x"),
    b"/kruise/sb1/3000//kruise/sb2/3000/x": ("sb1", b"//kruise/sb2/3000/x"),
    b"/kruise/sb1/3000/..\\..\\sb2": ("sb1", b"/..\\..\\sb2"),
    b"/kruise/sb1/3000/a%00b;c=d/%2f": ("sb1", b"/a%00b;c=d/%2f"),
    b"/kruise/sb1/3000/%23/%3F?a=http://x/kruise/api": ("sb1", b"/%23/%3F?a=http://x/kruise/api"),
    b"/kruise/api-7/3000/x": ("api-7", b"/x"),
    b"/kruise/sb1%2f3000/3000/x": (None, 502),
    b"/kruise/sb1%00/3000/x": (None, 502),
    b"/kruise/%73b1/3000/x": (None, 502),
    b"/kruise/sb1;x/3000/x": (None, 502),
    b"/kruise/SB1/3000/x": (None, 502),
    b"/kruise/../sb1/3000/x": (None, 500),
    b"/kruise/./sb1/3000/x": (None, 500),
    b"/kruise/%2e%2e/3000/x": (None, 502),
    b"/kruise/" + b"a" * 40_000 + b"/3000/x": (None, 502),
    b"/kruise//3000/x": (None, 500),
    b"//kruise/sb1/3000/x": (None, 500),
    b"/%6bruise/sb1/3000/x": (None, 500),
    b"/kruise%2fsb1/3000/x": (None, 500),
    b"/kruise\\sb1\\3000\\x": (None, 500),
    b"/kruise/sb1/3000%2fx": (None, 500),
    b"/kruise/sb1/0x50/x": (None, 500),
    b"/kruise/sb1/3e3/x": (None, 500),
    b"/kruise/sb1/3000;/x": (None, 500),
    b"/kruise/sb1/-0/x": (None, 400),
    b"/kruise/sb1/65536/x": (None, 400),
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.decode()[:60])
def test_a_path_names_the_sandbox_that_it_says_letter_by_letter_or_none(path: bytes, front: Front) -> None:
    answer = front.ask(b"GET " + path + b" HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
    sandbox_id, expected = PATHS[path]
    if sandbox_id is None:
        assert status_of(answer) == expected
        assert (front.arrivals, front.api_calls) == ([], [])
    else:
        (arrival,) = front.arrivals
        assert (arrival.sandbox_id, arrival.request_line.split()[1]) == (sandbox_id, expected)


def test_headers_of_one_connection_do_not_travel_and_the_others_do(front: Front) -> None:
    front.ask(
        b"GET /kruise/sb1/3000/ HTTP/1.1\r\n" + HOST + b"Connection: close, x-hop, Host, content-length\r\nX-Hop: 1\r\n"
        b"Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nTE: trailers\r\nX-End: 1\r\n\r\n"
    )
    *sent, (name, _) = front.arrivals[0].headers
    assert (sent, name) == ([(b"host", b"d.example"), (b"x-end", b"1")], b"x-request-id")


def test_an_expectation_is_answered_and_the_body_arrives(front: Front) -> None:
    with front.connect() as connection:
        head = b"POST /kruise/sb1/3000/x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n"
        connection.sendall(head + HOST + b"\r\n")
        assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        assert status_of(read_until(connection, b"ok")) == 200
    assert front.arrivals[0].body == b"hello"


class TestSizes:
    def test_a_long_request_line_is_414(self, front: Front) -> None:
        with front.connect() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /" + b"a" * 200_000)
            assert status_of(read_all(connection)) == 414

    @pytest.mark.parametrize("headers", [b"X-A: " + b"b" * 70_000, b"\r\n".join(b"X-%d: 1" % n for n in range(300))])
    def test_large_and_many_headers_are_431(self, headers: bytes, front: Front) -> None:
        answer = front.ask(b"GET /kruise/sb1/3000/ HTTP/1.1\r\n" + HOST + headers + b"\r\n\r\n")
        assert status_of(answer) == 431

    def test_a_head_of_single_bytes_is_read(self, front: Front) -> None:
        with front.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"\r\nPOST /kruise/sb1/3000/x HTTP/1.1\r\nContent-Length: 5\r\n" + HOST + b"\r\nhello":
                connection.sendall(bytes([byte]))
            assert status_of(read_until(connection, b"ok")) == 200
        assert front.arrivals[0].body == b"hello"


class TestPatience:
    """Time limits of a third of a second, which are a minute in a manager."""

    @pytest.fixture
    def front(self) -> Iterator[Front]:
        with running_front(head_seconds=0.3, stall_seconds=0.5) as front:
            yield front
            wait_for(lambda: not front.connections, what="the end of every connection")

    def test_a_connection_that_says_nothing_is_closed(self, front: Front) -> None:
        with front.connect() as connection:
            assert read_all(connection) == b""

    @pytest.mark.parametrize("before", [b"", b"GET /kruise/sb1/3000/ HTTP/1.1\r\n" + HOST + b"\r\n"])
    def test_a_head_that_drips_is_ended_with_408(self, before: bytes, front: Front) -> None:
        with front.connect() as connection:
            if before:
                connection.sendall(before)
                read_until(connection, b"ok")
            answer = drip(connection, b"GET /kruise/sb1/3000/ HTTP/1.1\r\nX: ")
        assert status_of(answer) == 408

    def test_the_rest_of_a_body_that_nobody_waits_for_is_not_waited_for(self, front: Front) -> None:
        with front.connect() as connection:
            head = b"POST /kruise/sb1/%d/x HTTP/1.1\r\n%bContent-Length: 100000\r\n\r\n"
            connection.sendall(head % (CLOSED_PORT, HOST))
            assert status_of(read_until(connection, b"}")) == 502
            assert drip(connection, b"") == b""

    def test_a_body_for_a_sandbox_may_take_its_time(self, front: Front) -> None:
        with front.connect() as connection:
            connection.sendall(b"POST /kruise/sb1/3000/x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n")
            for byte in b"hello":
                time.sleep(0.15)  # together longer than any head may take
                connection.sendall(bytes([byte]))
            assert status_of(read_until(connection, b"ok")) == 200

    def test_a_client_that_takes_nothing_is_cut_and_its_sandbox_learns_of_it(self, front: Front) -> None:
        front.answers[3001] = [b"HTTP/1.1 200 OK\r\n\r\n", *[b"z" * 65536] * 1000]
        with front.connect() as connection:
            connection.sendall(b"GET /kruise/sb1/3001/ HTTP/1.1\r\n" + HOST + b"\r\n")
            wait_for(lambda: front.arrivals and front.arrivals[0].ended, what="the end in the sandbox")


def drip(connection: socket.socket, data: bytes) -> bytes:
    """Send a byte now and then until the other side has had enough; what it said."""
    received = b""
    connection.settimeout(0.05)
    for byte in data + b"x" * 400:
        try:
            connection.sendall(bytes([byte]))
            piece = connection.recv(4096)
        except TimeoutError:
            continue
        except ConnectionError:
            break
        received += piece
        if not piece:
            break
    else:
        raise AssertionError("the other side never had enough")
    return received


def test_the_sandboxes_of_these_tests_are_what_the_paths_name() -> None:
    assert {name for name, _ in PATHS.values() if name} <= set(SANDBOXES)
