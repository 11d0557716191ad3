"""Raw requests to servers that have the trouble in question."""

from __future__ import annotations

import datetime
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from kruise_agents.probe import HEALTH, Look, ManagerKind, Trouble, look_at, manager_kind, resolve
from kruise_agents.protocol.domains import Domain, parse_domain
from support.raw_servers import OK, answer, closed_port, raw_server, self_made, server_context, trusted_authority


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    return trusted_authority(tmp_path, monkeypatch)


@pytest.fixture(name="closed_port")
def _closed_port() -> Iterator[int]:
    with closed_port() as port:
        yield port


def _at(port: int) -> Domain:
    return Domain("127.0.0.1", port)


def test_an_answer() -> None:
    with raw_server(answer("401 Unauthorized", '{"code": 401}', "Date: now")) as server:
        look = look_at("http", _at(server.port), "/kruise/api/x?y", headers={"X-API-Key": "secret"})
    assert (look.trouble, look.status, look.text) == (None, 401, '{"code": 401}')
    assert look.headers["date"] == "now"
    assert look.address == "127.0.0.1"
    (request,) = server.requests
    assert request.startswith(b"GET /kruise/api/x?y HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{server.port}\r\n".encode() in request
    assert b"X-API-Key: secret\r\n" in request


def test_an_empty_post_has_a_length() -> None:
    with raw_server(OK) as server:
        look_at("http", _at(server.port), method="POST")
    assert b"Content-Length: 0\r\n" in server.requests[0]


def test_a_long_body_is_cut() -> None:
    with raw_server(answer("200 OK", "x" * 300_000)) as server:
        assert look_at("http", _at(server.port)).text == "x" * 65536


def test_no_address() -> None:
    look = look_at("http", parse_domain("nothing.invalid"))
    assert look.trouble is Trouble.NAME


def test_nobody_listens(closed_port: int) -> None:
    assert look_at("http", _at(closed_port)).trouble is Trouble.REFUSED


def test_the_second_address_is_tried() -> None:
    with raw_server(OK, host="127.0.0.1") as server:
        look = look_at("http", Domain("localhost", server.port))
    assert (look.trouble, look.address) == (None, "127.0.0.1")


def test_a_silent_server_takes_no_longer_than_permitted() -> None:
    with raw_server(None) as server:
        assert look_at("http", _at(server.port), seconds=0.3).trouble is Trouble.TIMED_OUT
        assert look_at("https", _at(server.port), seconds=0.3).trouble is Trouble.TIMED_OUT


def test_a_server_that_drips_takes_no_longer_than_permitted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b"H")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        started = time.monotonic()
        look = look_at("http", _at(listener.getsockname()[1]), seconds=0.5)
        stop.set()
        thread.join(10)
    assert look.trouble is Trouble.TIMED_OUT
    assert time.monotonic() - started < 10


def test_a_closed_connection() -> None:
    with raw_server(b"") as server:
        assert look_at("http", _at(server.port)).trouble is Trouble.CLOSED


def test_what_is_no_http() -> None:
    with raw_server(b"SSH-2.0-OpenSSH_9.2\r\n") as server:
        look = look_at("http", _at(server.port))
    assert (look.trouble, "SSH-2.0" in look.detail) == (Trouble.NOT_HTTP, True)


def test_https_to_a_port_of_plain_http() -> None:
    with raw_server(answer("400 Bad Request", "no")) as server:
        assert look_at("https", _at(server.port)).trouble is Trouble.PLAIN_HTTP


@pytest.mark.parametrize(
    "reply",
    [
        answer("400 Bad Request", "<center>The plain HTTP request was sent to HTTPS port</center>"),
        answer("400 Bad Request", "Client sent an HTTP request to an HTTPS server.\n"),
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
    ids=["nginx", "go", "alert"],
)
def test_http_to_a_port_of_tls(reply: bytes) -> None:
    with raw_server(reply) as server:
        assert look_at("http", _at(server.port)).trouble is Trouble.WANTS_TLS


def test_a_trusted_certificate(authority: trustme.CA) -> None:
    with raw_server(OK, server_context(authority.issue_cert("localhost"))) as server:
        look = look_at("https", Domain("localhost", server.port))
    assert (look.trouble, look.status) == (None, 200)
    assert look.certificate is not None
    assert look.certificate.names == ("localhost",)


def test_an_unknown_authority() -> None:
    stranger = trustme.CA(organization_name="Strangers")
    with raw_server(OK, server_context(stranger.issue_cert("localhost"))) as server:
        look = look_at("https", Domain("localhost", server.port))
    assert look.trouble is Trouble.UNTRUSTED
    assert look.certificate is not None
    assert look.certificate.names == ("localhost",)
    assert "Strangers" in look.certificate.issuer
    assert server.requests == []  # nothing was sent to a stranger


def test_a_certificate_for_another_name(authority: trustme.CA) -> None:
    with raw_server(OK, server_context(authority.issue_cert("other.example", "*.other.example"))) as server:
        look = look_at("https", Domain("localhost", server.port))
    assert look.trouble is Trouble.WRONG_NAME
    assert look.certificate is not None
    assert look.certificate.names == ("other.example", "*.other.example")


def test_an_expired_certificate(authority: trustme.CA) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    with raw_server(OK, server_context(authority.issue_cert("localhost", not_after=past))) as server:
        assert look_at("https", Domain("localhost", server.port)).trouble is Trouble.EXPIRED


def test_the_certificate_of_an_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, path = self_made(tmp_path, authority=True)
    with raw_server(OK, context) as server:
        untrusted = look_at("https", Domain("localhost", server.port))
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        trusted = look_at("https", Domain("localhost", server.port))
    assert untrusted.trouble is Trouble.UNTRUSTED
    assert untrusted.certificate is not None
    assert untrusted.certificate.is_authority
    assert trusted.trouble is Trouble.AUTHORITY
    assert server.requests == []


def test_through_a_proxy() -> None:
    with raw_server(OK) as proxy:
        look = look_at("http", parse_domain("manager.invalid"), proxy=f"http://user:p%40ss@{proxy.domain}")
    assert look.status == 200
    assert proxy.requests[0].startswith(b"GET http://manager.invalid/kruise/api/health HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpwQHNz\r\n" in proxy.requests[0]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses(scheme: str) -> None:
    with raw_server(answer("407 Proxy Authentication Required", "")) as proxy:
        look = look_at("https" if scheme == "https" else "http", parse_domain("manager.invalid"), proxy=proxy.domain)
    assert look.trouble is Trouble.PROXY
    assert "407" in look.detail


def test_a_proxy_that_nobody_runs(closed_port: int) -> None:
    look = look_at("https", parse_domain("manager.invalid"), proxy=f"http://127.0.0.1:{closed_port}")
    assert look.trouble is Trouble.REFUSED


@pytest.mark.parametrize(
    ("status", "text", "headers", "kind"),
    [
        (200, "OK", {}, ManagerKind.EMBEDDED),
        (404, "404 page not found\n", {"server": "envoy", "x-request-id": "1"}, ManagerKind.OPENKRUISE),
        (404, "404 page not found\n", {"x-request-id": "1"}, ManagerKind.LIKE_OPENKRUISE),
        (200, "<html>OK</html>", {}, None),
        (502, "", {}, None),
    ],
)
def test_kinds_of_managers(status: int, text: str, headers: dict[str, str], kind: ManagerKind | None) -> None:
    look = Look("http", _at(1), status=status, body=text.encode(), headers=headers)
    assert manager_kind(look) is kind


def test_the_real_thing(manager: object) -> None:
    from support.managers import RunningManager

    assert isinstance(manager, RunningManager)
    assert manager_kind(look_at("http", parse_domain(manager.domain), HEALTH)) is ManagerKind.EMBEDDED


def test_names_that_are_none() -> None:
    with pytest.raises(socket.gaierror):
        resolve("x" * 64 + ".example", 80)
