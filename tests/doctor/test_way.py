"""Checks of the way to the manager, each with the trouble made for real and without it."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from kruise_agents.doctor import way
from kruise_agents.doctor.checks import Verdict
from kruise_agents.embedded import CONNECTION_FILE, Connection
from support.diagnosis import finding, pretend, report
from support.managers import RunningManager
from support.raw_servers import (
    OK,
    RawServer,
    answer,
    closed_port,
    raw_server,
    self_made,
    server_context,
    trusted_authority,
)

FINE, WARNING, BROKEN, SKIPPED = Verdict.FINE, Verdict.WARNING, Verdict.BROKEN, Verdict.SKIPPED
NO_MANAGER = answer("404 Not Found", "<html><title>Nginx</title></html>", "Content-Type: text/html")


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with raw_server(OK) as running:
        yield running


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    return trusted_authority(tmp_path, monkeypatch)


def test_names() -> None:
    assert finding("name", domain="localhost:1").verdict is FINE
    assert finding("name", domain="nothing.invalid").verdict is BROKEN
    in_cluster = finding("name", domain="sandbox-manager.sandbox-system.svc.cluster.local:7788")
    assert (in_cluster.verdict, "port-forward" in in_cluster.command) == (BROKEN, True)
    assert finding("name").verdict is SKIPPED


def test_a_name_below_localhost_is_this_machine(
    server: RawServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's resolver need not know it, and the SDK does since it has a resolver of its own."""
    results = report({"E2B_DOMAIN": f"sub.localhost:{server.port}"})
    assert results["name"].finding.verdict is FINE
    assert results["connect"].finding.verdict is FINE
    monkeypatch.syspath_prepend(str(tmp_path))
    pretend("e2b", "2.20.0", tmp_path)
    monkeypatch.setattr(way, "resolve", unknown)
    older = finding("name", domain="sub.localhost:1")
    assert (older.verdict, older.command) == (BROKEN, "echo '127.0.0.1 sub.localhost' | sudo tee -a /etc/hosts")


def unknown(*arguments: object) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _both_families(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Give localhost two addresses, as on most machines; here it may have one."""
    monkeypatch.setattr(way, "resolve", lambda *arguments: list(addresses))


def test_localhost_with_one_server(monkeypatch: pytest.MonkeyPatch, server: RawServer) -> None:
    assert finding("loopback", domain=server.domain).verdict is FINE
    _both_families(monkeypatch, "127.0.0.1", "127.0.0.2")
    assert finding("loopback", domain=server.domain).verdict is FINE


def test_localhost_whose_first_address_is_not_served(monkeypatch: pytest.MonkeyPatch, server: RawServer) -> None:
    _both_families(monkeypatch, "127.0.0.2", "127.0.0.1")
    found = finding("loopback", domain=server.domain)
    assert (found.verdict, found.command) == (WARNING, f"export E2B_DOMAIN=127.0.0.1:{server.port}")


def test_localhost_with_two_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    _both_families(monkeypatch, "127.0.0.2", "127.0.0.1")
    with raw_server(OK) as manager, raw_server(NO_MANAGER, host="127.0.0.2", port=manager.port):
        found = finding("loopback", domain=manager.domain)
    assert found.verdict is BROKEN
    assert found.command.startswith(f"export E2B_DOMAIN=127.0.0.1:{manager.port} ")


def test_connections(server: RawServer) -> None:
    assert finding("connect", domain=server.domain).verdict is FINE
    with closed_port() as port:
        found = finding("connect", domain=f"localhost:{port}")
    assert found.verdict is BROKEN
    assert f"kruise-agents serve --port {port} " in found.command
    assert f"port-forward services/sandbox-manager {port}:7788" in found.command
    low = finding("connect", domain="127.0.0.1:1")
    assert (low.verdict, "E2B_DOMAIN=127.0.0.1:8080" in low.reason, "8080:7788" in low.command) == (BROKEN, True, True)
    assert finding("connect", domain="nothing.invalid").verdict is SKIPPED


def test_a_service_needs_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> socket.socket:
        raise ConnectionRefusedError(111, "Connection refused")

    # A Service without port 80 as the cluster shows it: the name has an address, and the connection is refused.
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr("kruise_agents.probe.resolve", lambda *arguments: ["10.96.0.10"])
    found = finding("connect", domain="sandbox-manager.sandbox-system.svc.cluster.local")
    assert found.command == "export E2B_DOMAIN=sandbox-manager.sandbox-system.svc.cluster.local:7788"


FORWARD = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        listener.accept()[0].close()
"""


@contextlib.contextmanager
def dead_forward(folder: Path) -> Iterator[tuple[int, int]]:
    """Run a program that looks like a kubectl whose pod has gone: it accepts connections and closes them."""
    kubectl = folder / "kubectl"
    kubectl.write_text(FORWARD)
    command = [sys.executable, str(kubectl), "port-forward", "services/sandbox-manager", "8080:7788"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.live
def test_a_dead_port_forward(tmp_path: Path) -> None:
    with dead_forward(tmp_path) as (pid, port), closed_port() as other:
        found = finding("port-owner", domain=f"localhost:{port}")
        elsewhere = finding("port-owner", domain=f"localhost:{other}")
    assert (found.verdict, found.command.startswith(f"kill {pid}; kubectl port-forward")) == (BROKEN, True)
    assert elsewhere.verdict is BROKEN
    assert f"not for port {other}" in elsewhere.reason


def test_a_port_that_another_program_has() -> None:
    with raw_server(NO_MANAGER) as taken:
        found = finding("port-owner", domain=taken.domain)
    assert (found.verdict, f"port {taken.port} is taken" in found.reason) == (BROKEN, True)


def test_a_port_whose_program_cannot_be_asked() -> None:
    """A wrong certificate, scheme or proxy says nothing about the program."""
    with raw_server(OK, server_context(trustme.CA().issue_cert("localhost"))) as tls:
        assert finding("port-owner", domain=tls.domain).verdict is FINE
        assert finding("port-owner", domain=tls.domain, scheme="http").verdict is FINE
    with raw_server(OK) as manager, raw_server(NO_MANAGER) as proxy:
        assert finding("port-owner", {"HTTP_PROXY": proxy.domain}, domain=manager.domain).verdict is FINE


def test_a_web_server_before_the_manager_is_no_thief_of_its_port() -> None:
    for reply in (answer("502 Bad Gateway", ""), answer("308 Permanent Redirect", "", "Location: https://d.example/")):
        with raw_server(reply) as front:
            assert finding("port-owner", domain=front.domain).verdict is FINE


def test_the_port_of_a_manager(manager: RunningManager) -> None:
    found = finding("port-owner", domain=manager.domain)
    assert (found.verdict, f"(process {manager.process.pid})" in found.value) == (FINE, True)
    assert finding("port-owner", domain="d.example").verdict is SKIPPED


def test_the_scheme_that_a_port_speaks(server: RawServer, authority: trustme.CA) -> None:
    assert finding("scheme", domain=server.domain).reason == "The program needs patch_e2b(False)."
    assert finding("scheme", domain=server.domain, scheme="http").verdict is FINE
    mixed_up = finding("scheme", domain=server.domain, scheme="https")
    assert (mixed_up.verdict, mixed_up.command) == (BROKEN, "patch_e2b(False)")
    with raw_server(OK, server_context(authority.issue_cert("localhost"))) as tls:
        assert finding("scheme", domain=tls.domain).reason == "The program needs patch_e2b()."
        assert finding("scheme", domain=tls.domain, scheme="https").verdict is FINE
        mixed_up = finding("scheme", domain=tls.domain, scheme="http")
    assert (mixed_up.verdict, mixed_up.command) == (BROKEN, "patch_e2b()")


def test_a_server_that_sends_http_on_to_https() -> None:
    with raw_server(answer("301 Moved Permanently", "", "Location: https://d.example/")) as server:
        found = finding("scheme", domain=server.domain, scheme="http")
    assert (found.verdict, found.command) == (BROKEN, "patch_e2b()")


def test_a_trusted_certificate(authority: trustme.CA, server: RawServer) -> None:
    with raw_server(OK, server_context(authority.issue_cert("localhost"))) as tls:
        found = finding("tls-trust", domain=tls.domain)
    assert (found.verdict, found.value) == (FINE, "localhost")
    assert finding("tls-trust", domain=server.domain).verdict is SKIPPED


def test_an_untrusted_authority(authority: trustme.CA) -> None:
    stranger = trustme.CA(organization_name="Strangers")
    with raw_server(OK, server_context(stranger.issue_cert("localhost"))) as tls:
        found = finding("tls-trust", domain=tls.domain)
    assert (found.verdict, found.command.split("  ")[0]) == (BROKEN, "export SSL_CERT_FILE=/path/to/ca.pem")
    assert "Strangers" in found.reason


def test_the_authority_of_a_manager_that_runs_here(tmp_path: Path) -> None:
    stranger = trustme.CA()
    with raw_server(OK, server_context(stranger.issue_cert("localhost"))) as tls:
        url = f"https://{tls.domain}"
        there = Connection(
            "1", os.getpid(), url, tls.domain, "https", f"{url}/kruise/api", "k", Path("/its/ca.pem"), tmp_path
        )
        with there.published(tmp_path / CONNECTION_FILE):
            found = finding("tls-trust", {"KRUISE_AGENTS_STATE_DIR": str(tmp_path)}, domain=tls.domain)
    assert found.command == "export SSL_CERT_FILE=/its/ca.pem"


def test_a_certificate_for_another_name(authority: trustme.CA) -> None:
    with raw_server(OK, server_context(authority.issue_cert("d.example", "*.d.example"))) as tls:
        found = finding("tls-trust", domain=tls.domain)
    assert (found.verdict, found.value) == (BROKEN, "d.example, *.d.example")
    assert found.command == (
        f"echo '127.0.0.1 d.example' | sudo tee -a /etc/hosts; export E2B_DOMAIN=d.example:{tls.port}"
    )


@pytest.mark.parametrize("known", [True, False])
def test_every_fault_of_a_certificate_is_named(known: bool, authority: trustme.CA) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    maker = authority if known else trustme.CA()
    with raw_server(OK, server_context(maker.issue_cert("d.example", not_after=past))) as tls:
        found = finding("tls-trust", domain=tls.domain)
    assert (found.verdict, found.value) == (BROKEN, "d.example")
    assert ("is not trusted" in found.reason) is not known
    for words in ("is for other names" if not known else "is not for localhost", "expired"):
        assert words in found.reason


@pytest.mark.parametrize("complete", [True, False])
def test_a_server_that_leaves_out_its_intermediate_certificate(complete: bool, authority: trustme.CA) -> None:
    leaf = authority.create_child_ca().issue_cert("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain = leaf.cert_chain_pems if complete else leaf.cert_chain_pems[:1]
    with trustme.Blob(leaf.private_key_pem.bytes() + b"".join(each.bytes() for each in chain)).tempfile() as path:
        context.load_cert_chain(path)
    with raw_server(OK, context) as tls:
        found = finding("tls-trust", domain=tls.domain)
    assert found.verdict is (FINE if complete else BROKEN)
    assert ("The server sends this certificate alone" in found.reason) is not complete


def test_an_expired_certificate(authority: trustme.CA) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    with raw_server(OK, server_context(authority.issue_cert("localhost", not_after=past))) as tls:
        found = finding("tls-trust", domain=tls.domain)
    assert (found.verdict, "expired" in found.reason) == (BROKEN, True)


@pytest.mark.parametrize("trusted", [True, False])
def test_the_certificate_that_openssl_req_makes(trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, path = self_made(tmp_path, authority=True)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with raw_server(OK, context) as tls:
        found = finding("tls-trust", domain=tls.domain)
    assert (found.verdict, "CA:TRUE" in found.reason) == (BROKEN, True)


def test_a_manager_behind_a_proxy(server: RawServer) -> None:
    listing = answer("401 Unauthorized", '{"code": 401}', "Content-Type: application/json")
    with raw_server({b"/health": OK, b"": listing}) as through:
        variables = {"HTTP_PROXY": f"http://user:secret@{through.domain}"}
        found = finding("proxy", variables, domain="manager.invalid", scheme="http")
    assert (found.verdict, found.value) == (FINE, f"http://{through.domain}")
    assert finding("proxy", domain=server.domain).verdict is SKIPPED


def test_a_proxy_that_does_not_know_the_manager(server: RawServer) -> None:
    with raw_server(answer("502 Bad Gateway", "")) as broken_proxy:
        variables = {"HTTP_PROXY": f"http://{broken_proxy.domain}", "NO_PROXY": "a.b"}
        found = finding("proxy", variables, domain=f"127.0.0.1:{server.port}", scheme="http")
    hosts = "a.b,127.0.0.1,localhost,::1"
    assert (found.verdict, found.command) == (BROKEN, f"export NO_PROXY={hosts} no_proxy={hosts}")
