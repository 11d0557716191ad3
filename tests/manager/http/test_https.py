"""https and plain http on one port, and clients that speak neither to the end."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kruise_agents.manager.http.admission import Admission
from kruise_agents.manager.http.certificates import LocalCertificate, make_certificate, server_context
from kruise_agents.manager.http.https import Https
from support.fronts import Front, read_all, read_until, running_front
from support.managers import wait_for

REQUEST = b"GET /kruise/api/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
ADVICE = "Do this."


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> LocalCertificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), ["localhost"])


@pytest.fixture(scope="module")
def trusting(made: LocalCertificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=made.authority)


@pytest.fixture(scope="module")
def both(made: LocalCertificate) -> Iterator[Front]:
    """A front that speaks http and https."""
    with running_front(https=Https(lambda: server_context(made.certificate, made.private_key), ADVICE)) as front:
        yield front


@pytest.fixture
def front(both: Front, trusting: ssl.SSLContext) -> Iterator[Front]:
    yield both
    assert answers(both.connect()), "whatever a test has sent, plain requests are answered"
    assert answers(secured(both, trusting)), "and requests over https"
    wait_for(lambda: not both.connections, what="the end of the connections")


def secured(front: Front, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(front.connect(), server_hostname="localhost")


def ask(connection: socket.socket) -> bool:
    connection.sendall(REQUEST)
    return read_until(connection, b"\r\n\r\napi").startswith(b"HTTP/1.1 200 ")


def answers(connection: socket.socket) -> bool:
    with connection:
        return ask(connection) and ask(connection)


def client_hello(context: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO, bytes]:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return client, incoming, outgoing, outgoing.read()


def test_both_schemes_are_answered_on_one_port(front: Front, trusting: ssl.SSLContext) -> None:
    with front.connect() as plain, secured(front, trusting) as tls:
        for connection in (plain, tls, plain, tls):
            assert ask(connection)
        assert {protocol.scheme for protocol in front.connections} == {"http", "https"}


def test_a_handshake_that_comes_byte_by_byte_is_completed(front: Front, trusting: ssl.SSLContext) -> None:
    client, incoming, outgoing, hello = client_hello(trusting)
    with front.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in hello:
            connection.sendall(bytes([byte]))
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                incoming.write(connection.recv(65536))
        client.write(REQUEST)
        data = outgoing.read()
        for at in range(len(data)):
            connection.sendall(data[at : at + 1])
        answer = b""
        while b"api" not in answer:
            try:
                answer += client.read(65536)
            except ssl.SSLWantReadError:
                incoming.write(connection.recv(65536))
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_request_in_the_flight_that_ends_the_handshake_is_answered(front: Front, trusting: ssl.SSLContext) -> None:
    client, incoming, outgoing, hello = client_hello(trusting)
    with front.connect() as connection:
        connection.sendall(hello)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                incoming.write(connection.recv(65536))
        client.write(REQUEST)
        connection.sendall(outgoing.read())
        answer = b""
        while b"api" not in answer:
            try:
                answer += client.read(65536)
            except ssl.SSLWantReadError:
                incoming.write(connection.recv(65536))
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16",
        b"\x16\x03",
        b"\x16\x03\x01\x02\x00\x01",
        b"\x16" + b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\xff\xff\xff\xff" + bytes(70000),
        b"\x16\x03\x01" + b"\xff" * 300000,
    ],
    ids=["a byte", "two bytes", "a header", "a request", "zeros", "ones"],
)
def test_what_only_begins_like_a_handshake_ends_nothing_but_itself(
    sent: bytes, front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    with front.connect() as connection:
        with contextlib.suppress(OSError):  # the front has closed the connection
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        assert b"HTTP" not in read_all(connection)
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


def test_a_connection_that_is_reset_in_the_handshake_is_forgotten(front: Front, trusting: ssl.SSLContext) -> None:
    *_, hello = client_hello(trusting)
    with front.connect() as connection:
        connection.sendall(hello)
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def test_tls_in_tls_is_no_request(front: Front, trusting: ssl.SSLContext) -> None:
    *_, hello = client_hello(trusting)
    with secured(front, trusting) as connection:
        connection.sendall(hello)
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_does_not_trust_is_told_of_once(made: LocalCertificate, caplog: pytest.LogCaptureFixture) -> None:
    with running_front(https=Https(lambda: server_context(made.certificate, made.private_key), ADVICE)) as front:
        for _ in range(3):
            with pytest.raises(ssl.SSLError, match="certificate verify failed"):
                secured(front, ssl.create_default_context())
        wait_for(lambda: caplog.records, what="the line in the log")
    (line,) = [record.getMessage() for record in caplog.records if record.name.endswith(".https")]
    assert re.match(r"a client at 127\.0\.0\.1 began https and left before it sent a request \(\w+ALERT\w+\): ", line)
    assert line.endswith(f"does not trust this manager's certificate. {ADVICE}")


def test_where_only_https_is_wanted_plain_http_is_refused_in_words(
    made: LocalCertificate, trusting: ssl.SSLContext
) -> None:
    https = Https(lambda: server_context(made.certificate, made.private_key), ADVICE, only=True)
    with running_front(https=https) as front:
        assert answers(secured(front, trusting))
        for request in (REQUEST, b"G", b"\r\n", b"\x15\x03\x01\x00\x02\x02\x46"):
            head, _, body = front.ask(request).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            assert b"content-type: application/json" in head
            assert "use https://, and in a program patch_e2b()" in json.loads(body)["message"]
        assert front.api_calls == [("GET", "/health")] * 2


def test_who_stalls_in_the_handshake_is_let_go(made: LocalCertificate, trusting: ssl.SSLContext) -> None:
    https = Https(lambda: server_context(made.certificate, made.private_key), ADVICE)
    with running_front(head_seconds=0.3, https=https) as front:
        for begun in (b"", b"\x16", client_hello(trusting)[3]):
            with front.connect() as connection:
                connection.sendall(begun)
                read_all(connection)  # until the front closes the connection


def test_requests_are_answered_while_the_certificate_is_made(made: LocalCertificate, trusting: ssl.SSLContext) -> None:
    goes_on, loads = threading.Event(), []

    def load() -> ssl.SSLContext:
        loads.append(goes_on.wait(20))
        return server_context(made.certificate, made.private_key)

    with running_front(https=Https(load, ADVICE)) as front, contextlib.ExitStack() as stack:
        *_, hello = client_hello(trusting)
        waiting = [stack.enter_context(front.connect()) for _ in range(3)]
        for connection in waiting:
            connection.sendall(hello)
        with front.connect() as leaving:
            leaving.sendall(hello)
        assert answers(front.connect())
        goes_on.set()
        assert all(connection.recv(1) == b"\x16" for connection in waiting)
        assert answers(secured(front, trusting))
    assert loads == [True]


def test_a_certificate_that_cannot_be_made_is_tried_again(
    made: LocalCertificate, trusting: ssl.SSLContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "tls"
    folder.touch()

    def load() -> ssl.SSLContext:
        make_certificate(folder, ["localhost"])
        return server_context(made.certificate, made.private_key)

    with running_front(https=Https(load, ADVICE)) as front:
        with pytest.raises(OSError, match=r"EOF|reset"):
            secured(front, trusting)
        assert "no https, because the certificate cannot be made or read: " in caplog.text
        folder.unlink()
        assert answers(secured(front, trusting))


def test_https_has_bounds_of_its_own(
    made: LocalCertificate, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Admission, "within_descriptors", lambda *, tls: Admission(4 if tls else 20, 3, 1_000_000))
    https = Https(lambda: server_context(made.certificate, made.private_key), ADVICE)
    monkeypatch.setattr(Admission, "within_descriptors", lambda *, tls: Admission(20, 10, 1_000_000))
    with running_front(https=https) as front, contextlib.ExitStack() as stack:
        plain = stack.enter_context(front.connect())
        assert ask(plain)
        first, second, third = [stack.enter_context(secured(front, trusting)) for _ in range(3)]
        assert ask(first), "now the second is idle for the longest time"
        assert ask(stack.enter_context(secured(front, trusting)))
        assert second.recv(1) == b""
        for connection in (plain, first, third):
            assert ask(connection)
