"""Hostile answers of programs in a sandbox, byte by byte."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator

import httpx
import pytest

from kruise_agents.manager.gateway.headers import below_prefix
from support.fronts import OK, Front, read_all, running_front
from support.managers import wait_for

PORT = 3001
REQUEST = b"GET /kruise/sb1/3001/x HTTP/1.1\r\nHost: d.example\r\n\r\n"


@pytest.fixture(scope="module")
def shared_front() -> Iterator[Front]:
    with running_front() as front:
        yield front


@pytest.fixture
def front(shared_front: Front, caplog: pytest.LogCaptureFixture) -> Iterator[Front]:
    shared_front.arrivals.clear()
    shared_front.answers.clear()
    with caplog.at_level(logging.WARNING):
        yield shared_front
    assert not caplog.records, "a sandbox can fill the manager's log"


def answer_of(front: Front, *pieces: bytes, request: bytes = REQUEST) -> bytes:
    """Return the bytes that a client gets when the application sends ``pieces`` and closes."""
    front.answers[PORT] = [*pieces, b""]
    return front.ask(request.replace(b"Host:", b"Connection: close\r\nHost:"))


BAD_HEADS = {
    "no http": b"220 mail ready\r\n\r\n",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    "a NUL in a header": b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 2\r\n\r\nok",
    "a control character in a header": b"HTTP/1.1 200 OK\r\nX-A: a\x01b\r\nContent-Length: 2\r\n\r\nok",
    "a bare carriage return in a header": b"HTTP/1.1 200 OK\r\nX-A: a\rX-B: b\r\nContent-Length: 2\r\n\r\nok",
    "a header name with a blank": b"HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 2\r\n\r\nok",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 200_000,
    "a header without end": b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 2_000_000,
    "interim responses without end": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100_000,
    "an upgrade that nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    "a status that is none": b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_HEADS)
def test_an_answer_that_is_no_http_is_one_502_that_names_the_sandbox(name: str, front: Front) -> None:
    answer = answer_of(front, BAD_HEADS[name])
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert count_of(answer) == 1
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["sandboxId"] == "sb1"


@pytest.mark.parametrize(("count", "status"), [(32, b"200"), (33, b"502")])
def test_32_interim_answers_are_dropped_and_more_are_refused(count: int, status: bytes, front: Front) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n" * count
    answer = answer_of(front, early + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert count_of(answer) == 1


BAD_BODIES = {
    "fewer bytes than said": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
    "a bad chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "a chunk size without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"x" * 2_000_000,
    "trailers without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 200_000,
    "a chunk that is cut": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhello",
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_breaks_off_or_breaks_the_rules_cuts_the_clients_connection(name: str, front: Front) -> None:
    answer = answer_of(front, BAD_BODIES[name])
    assert count_of(answer) == 1
    head, _, body = answer.partition(b"\r\n\r\n")
    complete = body.endswith(b"0\r\n\r\n") if b"chunked" in head.lower() else len(body) == 50
    assert not complete


def test_bytes_after_the_response_are_nobodys_response(front: Front) -> None:
    answer = answer_of(front, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX-Evil: 1\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nok")
    assert b"evil" not in answer.lower()


def test_of_equal_lengths_the_client_gets_one(front: Front) -> None:
    answer = answer_of(front, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nok")
    assert answer.lower().count(b"content-length: 2\r\n") == 1
    assert answer.endswith(b"\r\n\r\nok")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_a_response_without_a_body_has_none_whatever_its_length_says(status: bytes, front: Front) -> None:
    answer = answer_of(front, b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nhello")
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length" not in answer.lower()


def test_headers_of_one_connection_do_not_travel_back(front: Front) -> None:
    answer = answer_of(
        front,
        b"HTTP/1.1 200 OK\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=1\r\nUpgrade: h2c\r\n"
        b"Proxy-Authenticate: Basic\r\nTrailer: X\r\nX-End: 1\r\nContent-Length: 2\r\n\r\nok",
    )
    names = {line.partition(b":")[0].lower() for line in answer.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]}
    assert names == {b"x-end", b"content-length", b"connection", b"x-request-id"}


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket, h2c", b""])
def test_a_handshake_is_answered_with_what_was_asked_for_or_with_502(upgrade: bytes, front: Front) -> None:
    handshake = b"Upgrade: websocket\r\nConnection: Upgrade\r\nHost:"
    front.answers[PORT] = [b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n\r\n"]
    with front.connect() as connection:
        connection.sendall(REQUEST.replace(b"Host:", handshake))
        assert connection.recv(65536).startswith(b"HTTP/1.1 502 ")
    wait_for(lambda: front.arrivals[0].ended, what="the end of the connection in the sandbox")


def test_a_sandbox_that_closes_a_websocket_closes_it_for_the_client(front: Front) -> None:
    accepted = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    front.answers[PORT] = [accepted, b"\x88\x02\x10\xe1", b""]
    with front.connect() as connection:
        connection.sendall(REQUEST.replace(b"Host:", b"Upgrade: websocket\r\nConnection: Upgrade\r\nHost:"))
        assert read_all(connection).endswith(b"\r\n\r\n\x88\x02\x10\xe1")
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"\x88\x02\x10\xe1")
    wait_for(lambda: not front.connections, what="the end of every connection")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (b"location", b"/x", b"/kruise/sb1/3001/x"),
        (b"location", b"//other.example/x", b"//other.example/x"),
        (b"location", b"/\\other.example", b"/kruise/sb1/3001/\\other.example"),
        (b"location", b"http://d.example@other.example/", b"http://d.example@other.example/"),
        (b"location", b"http://d.example.other.example/", b"http://d.example.other.example/"),
        (b"location", b"http://d.example/kruise/api/x", b"/kruise/sb1/3001/kruise/api/x"),
        (b"location", b"http://d.example//other.example/x", b"/kruise/sb1/3001//other.example/x"),
        (b"location", b"//d.example\\other.example/x", b"//d.example\\other.example/x"),
        (b"location", b"/kruise/sb2/3001/x", b"/kruise/sb1/3001/kruise/sb2/3001/x"),
        (b"set-cookie", b"a=1; Path=/; path=/kruise", b"a=1; Path=/kruise/sb1/3001/kruise"),
        (b"set-cookie", b"a=1; Path=/kruise/sb2", b"a=1; Path=/kruise/sb1/3001/kruise/sb2"),
        (b"set-cookie", b"a=1; Path=/kruise/sb1/3001/x", b"a=1; Path=/kruise/sb1/3001/x"),
        (b"set-cookie", b"a=1; Path=/kruise/sb1/30011", b"a=1; Path=/kruise/sb1/3001/kruise/sb1/30011"),
        (b"set-cookie", b"a=1; \tPaTh \t=\t/ ;HttpOnly", b"a=1; Path=/kruise/sb1/3001/;HttpOnly"),
        (b"set-cookie", b'a=1; Path="/"', b"a=1; Path=/kruise/sb1/3001/"),
        (b"set-cookie", b"a=1; Path=x; Secure", b"a=1; Path=/kruise/sb1/3001; Secure"),
        (b"set-cookie", b"a=1; Path", b"a=1; Path=/kruise/sb1/3001"),
        (b"set-cookie", b"a=1", b"a=1; Path=/kruise/sb1/3001"),
        (b"set-cookie", b"a=1; Domain=d.example; DOMAIN=example", b"a=1; Path=/kruise/sb1/3001"),
        (b"set-cookie", b"path=/; SameSite=Lax", b"path=/; Path=/kruise/sb1/3001; SameSite=Lax"),
    ],
)
def test_redirects_and_cookies_cannot_name_another_sandbox(name: bytes, value: bytes, expected: bytes) -> None:
    assert below_prefix([(name, value)], b"/kruise/sb1/3001", b"d.example", shared=True) == [(name, expected)]


OF_THE_ORIGIN = (
    b"Alt-Svc: h3=:443",
    b"Clear-Site-Data: *",
    b"Expect-CT: max-age=1",
    b"NEL: {}",
    b"Public-Key-Pins: max-age=1",
    b"Report-To: {}",
    b"Secure-Session-Registration: (ES256)",
    b"Service-Worker-Allowed: /",
    b"Set-Login: logged-in",
    b"Strict-Transport-Security: max-age=1; includeSubDomains",
    b"Use-As-Dictionary: match=*",
)


@pytest.mark.parametrize("header", OF_THE_ORIGIN)
def test_no_header_counts_for_an_origin_that_sandboxes_share(header: bytes, front: Front) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + header + b"\r\nSet-Cookie: a=1; Domain=d.example\r\n\r\nok"
    by_header = b"GET /x HTTP/1.1\r\nHost: d.example\r\nE2b-Sandbox-Id: sb1\r\nE2b-Sandbox-Port: 3001\r\n\r\n"
    for request in (REQUEST, by_header):
        told = answer_of(front, answer, request=request)
        assert told.endswith(b"\r\n\r\nok")
        assert header.partition(b":")[0].lower() not in told.lower()
        assert b"domain" not in told.lower()
    native = answer_of(front, answer, request=b"GET /x HTTP/1.1\r\nHost: 3001-sb1.d.example\r\n\r\n")
    assert header.lower() in native.lower()


@pytest.mark.parametrize("path", [b"/kruise/sb1/3001", b"/kruise/sb1/3001?x=/", b"/kruise/sb1/03001"])
def test_a_worker_whose_scope_has_other_ports_is_refused(path: bytes, front: Front) -> None:
    worker = b"GET %b HTTP/1.1\r\nHost: d.example\r\nService-Worker: script\r\n\r\n"
    assert answer_of(front, OK, request=worker % path).startswith(b"HTTP/1.1 403 ")
    assert answer_of(front, OK, request=worker % b"/kruise/sb1/3001/").startswith(b"HTTP/1.1 200 ")
    assert answer_of(front, OK, request=REQUEST.replace(b"/x", b"")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("authority", "value", "path"),
    [
        (b"d.example", b"http://d.example/items/?a=1#b", b"/items/?a=1#b"),
        (b"d.example", b"http://d.example", b"/"),
        (b"d.example", b"http://d.example?a=1", b"/?a=1"),
        (b"d.example", b"HTTP://D.Example/items", b"/items"),
        (b"d.example", b"http://d.example:80/items", b"/items"),
        (b"d.example", b"//d.example/items", b"/items"),
        (b"d.example:8443", b"http://d.example:8443/items", b"/items"),
        (b"[::1]:8443", b"http://[::1]:8443/items", b"/items"),
        (b"8000-sb1.d.example", b"http://8000-sb1.d.example/items", b"/items"),
    ],
)
def test_an_address_on_the_own_host_becomes_a_path(authority: bytes, value: bytes, path: bytes) -> None:
    below = b"/kruise/sb1/3001" + path
    assert mapped(b"location", value, authority) == path
    assert mapped(b"content-location", value, authority) == path
    assert mapped(b"refresh", b"0; url='" + value + b"'", authority) == b"0; url='" + path + b"'"
    assert mapped(b"refresh", b"5 " + value, authority, b"/kruise/sb1/3001") == b"5 " + below
    assert mapped(b"location", value, authority, b"/kruise/sb1/3001") == below
    assert mapped(b"location", b"/kruise/sb1/3001" + path, authority, b"/kruise/sb1/3001") == below


@pytest.mark.parametrize(
    "value",
    [
        b"http://other.example/items",
        b"http://d.example:8080/items",
        b"http://d.example@other.example/",
        b"//other.example/items",
        b"https://d.example:8443/items",
        b"https://d.example/items",  # an application may lead its client from http to https
        b"items",
        b"?page=2",
        b"http:///items",
        b"ftp://d.example/items",
        b"/\t/other.example",
    ],
)
def test_other_addresses_stay_as_they_are(value: bytes) -> None:
    assert mapped(b"location", value, b"d.example") == value
    assert mapped(b"refresh", b"0;" + value, b"d.example") == b"0;" + value
    assert mapped(b"location", b"http:///items", b"") == b"http:///items"


def test_an_address_with_https_on_the_own_host_keeps_its_scheme_below_the_prefix() -> None:
    value = mapped(b"location", b"https://d.example/items", b"d.example", b"/kruise/sb1/3001")
    assert value == b"https://d.example/kruise/sb1/3001/items"


@pytest.mark.parametrize("path", [b"//other.example/", b"/\\other.example/", b"/\t/other.example/"])
def test_a_path_that_browsers_read_as_a_host_stays_on_the_own_host(path: bytes) -> None:
    assert mapped(b"location", b"http://d.example" + path, b"d.example") == b"/." + path
    assert httpx.URL("https://d.example/a").join((b"/." + path).decode().replace("\t", "")).host == "d.example"


def mapped(name: bytes, value: bytes, authority: bytes, prefix: bytes = b"") -> bytes:
    return below_prefix([(name, value)], prefix, authority, shared=bool(prefix))[0][1]


def count_of(answers: bytes) -> int:
    return len(re.findall(rb"HTTP/1\.1 [0-9]{3} ", answers))
