"""TLS with a local authority, and the proxy as ``HTTPS_PROXY``."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from kruise_agents.errors import ConfigurationError
from kruise_agents.protocol.domains import Domain
from kruise_agents.proxy.proxy import Proxy, ProxySettings
from kruise_agents.proxy.upstream import Origin, client_context
from support.upstreams import Pair, get, proxied, run

UPSTREAM = Origin("https", Domain("your.domain"))


async def fetch(pair: Pair, name: str, request: bytes, *, tunnel: str = "", trusted: Path | None = None) -> bytes:
    """Send a request over TLS to the proxy's port, perhaps in a tunnel, and return all that comes."""
    context = ssl.create_default_context(cafile=str(trusted or pair.proxy.authority))
    reader, writer = await asyncio.open_connection("127.0.0.1", pair.proxy.port)
    if tunnel:
        writer.write(f"CONNECT {tunnel} HTTP/1.1\r\nHost: {tunnel}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
    await writer.start_tls(context, server_hostname=name)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(-1), 20)
    finally:
        writer.close()


@pytest.mark.parametrize("option", ["tls", "connect_proxy"])
def test_each_name_has_a_certificate_that_openssl_accepts(option: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        settings: dict[str, Any] = {option: True}
        async with proxied(folder=tmp_path, domains=("box.example",), **settings) as pair:
            for name in ("localhost", "3000-a--b.localhost", "api.localhost", "box.example", "3000-a.box.example"):
                path = "/" if name.startswith("3000") else "/teams"
                assert (await fetch(pair, name, get(path, name))).endswith(b"\r\n\r\nok")
            assert pair.proxy.bundle is not None
            again = await fetch(pair, "localhost", get("/teams", "localhost"), trusted=pair.proxy.bundle)
            assert again.endswith(b"\r\n\r\nok")
            with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'evil\.example'"):
                await fetch(pair, "evil.example", get("/teams", "evil.example"))
            assert len(pair.arrivals) == 6

    run(scenario())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle.pem", "ca.pem", "server.key", "server.pem"]
    assert (tmp_path / "server.key").stat().st_mode & 0o777 == 0o600


def test_an_https_client_with_fixed_addresses(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxied(folder=tmp_path, connect_proxy=True, domains=("your.domain",)) as pair:
            for name, path in (("api.your.domain", "/sandboxes"), ("3000-a.your.domain", "/x")):
                answer = await fetch(pair, name, get(path, name), tunnel=f"{name}:443")
                assert answer.endswith(b"\r\n\r\nok")
            lines = [arrival.request_line for arrival in pair.arrivals]
            assert lines == ["GET /kruise/api/sandboxes HTTP/1.1", "GET /kruise/a/3000/x HTTP/1.1"]

    run(scenario())


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("other.example:443", b"403"),
        ("your.domain:22", b"403"),
        ("your.domain.evil.example:443", b"403"),
        ("127.0.0.1:9", b"403"),
        ("your.domain", b"400"),
        ("/", b"400"),
    ],
)
def test_it_is_no_proxy_for_others(target: str, status: bytes, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxied(folder=tmp_path, connect_proxy=True, domains=("your.domain",)) as pair:
            answer = await pair.ask(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 " + status)
            if status == b"403":
                assert b"--connect-others" in answer

    run(scenario())


def test_without_the_option_a_connect_is_refused() -> None:
    async def scenario() -> None:
        async with proxied() as pair:
            answer = await pair.ask(b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 405 ")

    run(scenario())


def test_tunnels_to_others_where_asked(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readexactly(4)).upper())
        writer.close()

    async def scenario() -> None:
        other = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        async with other, proxied(folder=tmp_path, connect_proxy=True, connect_others=True) as pair:
            # Python up to 3.11 sends such a request, without a Host, and data at once.
            answer = await pair.ask(f"CONNECT 127.0.0.1:{port} HTTP/1.0\r\n\r\nping".encode())
            assert answer == b"HTTP/1.1 200 Connection established\r\n\r\nPING"
            other.close()
            answer = await pair.ask(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 502 ")
            assert b"cannot connect to 127.0.0.1" in answer

    run(scenario())


def test_tunnels_to_others_are_for_this_machine_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = ProxySettings(UPSTREAM, host="0.0.0.0", connect_proxy=True, connect_others=True, folder=tmp_path)
        with pytest.raises(ConfigurationError, match="--connect-others"):
            await Proxy(settings).__aenter__()

    run(scenario())


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(
    ("name", "trusts", "scheme", "message"),
    [
        ("localhost", True, "https", ""),
        ("localhost", False, "https", "its certificate is not trusted"),
        ("other.example", True, "https", "its certificate is not trusted"),
        ("plain", True, "https", "it does not speak TLS there"),
        ("localhost", True, "http", "did not answer"),
    ],
)
def test_an_upstream_with_https(
    name: str, trusts: bool, scheme: Any, message: str, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = None
    if name != "plain":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(65536) and context is not None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        elif context is None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        origin = Origin(scheme, Domain("localhost", server.sockets[0].getsockname()[1]))
        ca = tmp_path / "ca.pem" if trusts else None
        async with server, proxied(upstream=origin, upstream_ca=ca) as pair:
            for path in ("/teams", "/kruise/a/3000/"):
                answer = (await pair.ask(get(path, "localhost"))).decode()
                assert message in answer
                assert answer.endswith("hello") is (message == "")

    run(scenario())


def test_a_wrong_file_of_an_authority(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    for path in (tmp_path / "none", tmp_path / "text"):
        with pytest.raises(ConfigurationError, match="--upstream-ca"):
            client_context(path)


def test_httpx_uses_it_as_its_proxy(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxied(folder=tmp_path, connect_proxy=True, domains=("your.domain",)) as pair:
            context = ssl.create_default_context(cafile=str(pair.proxy.authority))
            async with httpx.AsyncClient(proxy=f"http://localhost:{pair.proxy.port}", verify=context) as client:
                assert (await client.get("https://49999-a.your.domain/health")).text == "ok"

    run(scenario())


def test_a_tunnel_to_another_machine_does_not_end_here(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxied(folder=tmp_path, connect_proxy=True) as pair:
            for target in ("8.8.8.8:443", "10.0.0.5:80", "[2001:db8::1]:443"):
                answer = await pair.ask(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert answer.startswith(b"HTTP/1.1 403 "), answer
            answer = await pair.ask(
                b"CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n" + get("/teams", "localhost")  # in the clear
            )
            assert answer.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 200 OK\r\n"), answer

    run(scenario())


@pytest.mark.parametrize(
    ("target", "status"), [("..:443", b"502"), ("a" * 64 + ".example:443", b"502"), ("localhost:65616", b"400")]
)
def test_a_tunnel_to_a_host_or_port_that_cannot_be(target: str, status: bytes, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxied(folder=tmp_path, connect_proxy=True, connect_others=True) as pair:
            answer = await pair.ask(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 " + status), answer

    run(scenario())


def test_a_name_without_a_certificate_gets_the_first_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxied(folder=tmp_path, tls=True) as pair:
            with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
                await fetch(pair, "_a.localhost", get("/teams", "localhost"))

    run(scenario())
