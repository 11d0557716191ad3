"""Requests made of broken pieces: whatever gets through is what an independent parser (h11) reads in the same bytes."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.fronts import SANDBOXES, Arrival, Front, read_all, read_until, running_front
from support.managers import wait_for
from support.mutations import times
from support.reference import Destination, destination, header, requests_in

MARKER = b"GET /kruise/sb2/3000/marker HTTP/1.1\r\nHost: d.example\r\nConnection: close\r\n\r\n"
SMUGGLED = b"GET /kruise/api/smuggled HTTP/1.1\r\nHost: d.example\r\n\r\n"

ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\n ", b"\r\n\t", b"\r\r\n", b" \r\n", b"\r\n\r\n"])
LINES = st.sampled_from(
    [b"POST /kruise/sb1/3000/a HTTP/1.1"] * 6
    + [
        b"GET /kruise/sb1/3000/?q HTTP/1.1",
        b"PUT /x HTTP/1.1",
        b"GET http://d.example/kruise/sb1/3000/abs HTTP/1.1",
        b"GET /kruise/sb1/3000/../../api/x HTTP/1.1",
        b"GET /kruise/nobody/3000/ HTTP/1.1",
        b"GET /kruise/api/x HTTP/1.1",
        b"POST /kruise/sb1/3000/old HTTP/1.0",
        b"GET /kruise/sb1/3000/a",
        b"CONNECT d.example:80 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
    ]
)
HOSTS = st.sampled_from(
    [b"Host: d.example"] * 8 + [b"Host: 3000-sb2.d.example", b"Host: api.d.example", b"Host:", b"Host : d", b"X: 1"]
)
HEADERS = st.sampled_from(
    [
        b"X-A: 1",
        b"E2b-Sandbox-Id: api-7",
        b"Connection: Upgrade",
        b"Connection: content-length, transfer-encoding",
        b"Connection: close",
        b"Upgrade: h2c",
        b"Upgrade: websocket",
        b"Expect: 100-continue",
        b"TE: trailers",
        b"Content-Length: 0",
        b"Content-Length: +3",
        b"Content-Length: 3, 3",
        b"Content-Length : 3",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding:\tchunked",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding\x00: chunked",
        b"transfer_encoding: chunked",
        b"X: \x80\xff",
        b" X: folded",
        b"",
    ]
)
CONTENTS = st.sampled_from([b"", b"abc", SMUGGLED, SMUGGLED * 2, b"0\r\n\r\n" + SMUGGLED, b"\r\n" + SMUGGLED])
CHUNK_ENDS = st.sampled_from([b"\r\n"] * 8 + [b"\n", b"", b";x=y\r\n", b" \r\n", b";\n\r\n"])
TOKENS = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\x00", b"0", b"1", b"a", b",", b"chunked", SMUGGLED]
)


@st.composite
def one_request(draw: st.DrawFn) -> bytes:
    content = draw(CONTENTS)
    framing = draw(st.sampled_from(["length", "length", "chunks", "chunks", "none", "short", "long"]))
    lines = [draw(LINES), draw(HOSTS), *draw(st.lists(HEADERS, max_size=2))]
    body = content
    if framing == "chunks":
        lines.append(b"Transfer-Encoding: chunked")
        body = b"%x%b%b\r\n" % (len(content), draw(CHUNK_ENDS), content) if content else b""
        body += b"0" + draw(CHUNK_ENDS) + draw(st.sampled_from([b"", b"", b"X-T: 1\r\n", SMUGGLED])) + b"\r\n"
    elif framing != "none":
        lines.append(b"Content-Length: %d" % max(len(content) + {"length": 0, "short": -1, "long": 1}[framing], 0))
    else:
        body = b""
    return b"".join(line + draw(ENDS) for line in lines) + b"\r\n" + body


@st.composite
def connections(draw: st.DrawFn) -> bytes:
    data = b"".join(draw(st.lists(one_request(), min_size=1, max_size=2)))
    for _ in range(draw(st.integers(0, 2))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 3))
        data = data[:at] + draw(TOKENS) + data[at + length :]
    return data + MARKER


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with running_front(head_seconds=1.0) as front:
        yield front


@pytest.mark.slow
@settings(times(10), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(connections(), st.lists(st.integers(1, 200), max_size=2))
def test_nothing_gets_through_that_another_parser_does_not_read_there(
    front: Front, data: bytes, cuts: list[int]
) -> None:
    front.arrivals.clear()
    front.api_calls.clear()
    requests, waits = requests_in(data)
    expected = [
        (where, body)
        for request, body in requests
        if (where := whom(request.target, header(request, b"host"), request))[0] != "nobody"
    ]
    send(front, data, cuts, leave=waits)
    wait_for(lambda: all(arrival.ended for arrival in front.arrivals), what="the end of every forwarded request")

    api = [("api", path) for _, path in front.api_calls]
    assert is_prefix(list(api), [where for where, _ in expected if where[0] == "api"])
    into = [(where, body) for where, body in expected if where[0] == "sandbox"]
    assert len(front.arrivals) <= len(into)
    for arrival, (where, body) in zip(front.arrivals, into, strict=False):
        assert seen(arrival) == where
        assert arrival.body is None or arrival.body == body
    assert b"200 OK" in front.ask(MARKER)


def test_what_is_well_formed_gets_through_whole(front: Front) -> None:
    front.arrivals.clear()
    front.api_calls.clear()
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    with front.connect() as connection:
        for framing in (
            b"Content-Length: %d\r\n\r\n%b" % (len(SMUGGLED), SMUGGLED),
            b"Transfer-Encoding: chunked\r\n\r\n" + body,
        ):
            connection.sendall(b"POST /kruise/sb1/3000/a HTTP/1.1\r\nHost: d.example\r\n" + framing)
            assert b"200 OK" in read_until(connection, b"ok")
        connection.sendall(MARKER)
        assert b"200 OK" in read_all(connection)
    assert [arrival.body for arrival in front.arrivals] == [SMUGGLED, SMUGGLED, b""]
    assert front.api_calls == []


def send(front: Front, data: bytes, cuts: list[int], *, leave: bool) -> None:
    with front.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
                connection.sendall(data[begin:end])
            if leave:  # the rest of a body is not to come
                connection.shutdown(socket.SHUT_WR)
        except OSError:  # a shutdown after a reset is "not connected", which is no ConnectionError
            return  # it was refused before everything was sent
        read_all(connection)


def whom(target: bytes, host: str | None, request: object) -> Destination:
    text = target.decode("latin-1")
    if text.lower().startswith("http://"):
        text = "/" + text.partition("//")[2].partition("/")[2]
    found = destination(host or "", text, header(request, b"e2b-sandbox-id"), header(request, b"e2b-sandbox-port"))  # type: ignore[arg-type]  # a parsed request
    if found[0] == "sandbox" and found[1] not in SANDBOXES:
        return ("nobody",)
    return found if found[0] in ("api", "sandbox") else ("nobody",)


def seen(arrival: Arrival) -> Destination:
    return ("sandbox", arrival.sandbox_id, arrival.port, arrival.request_line.split(b" ")[1].decode("latin-1"))


def is_prefix(shorter: list[Destination], longer: list[Destination]) -> bool:
    return longer[: len(shorter)] == shorter
