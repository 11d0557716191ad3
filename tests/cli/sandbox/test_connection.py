"""The manager that ``kruise-agents sandbox`` talks to, and the words without a manager."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kruise_agents.cli.sandbox.connection import connect
from kruise_agents.patch_e2b import unpatch_e2b

from .conftest import Call

if TYPE_CHECKING:
    from support.managers import RunningManager


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("E2B_DOMAIN", "E2B_API_KEY", "E2B_API_URL", "KRUISE_AGENTS_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield
    unpatch_e2b()


def api_url(https: bool | None = None) -> str:
    from e2b import ConnectionConfig

    with connect(https):
        return str(ConnectionConfig().api_url)


def test_without_a_domain_it_is_the_manager_of_this_machine(
    call: Call, manager: RunningManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRUISE_AGENTS_STATE_DIR", str(manager.state_dir))
    done = call("templates")
    assert (done.code, done.err) == (0, "")
    assert "code-interpreter-v1" in done.out


def test_the_domain_of_the_manager_of_this_machine_needs_no_key(
    call: Call, manager: RunningManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRUISE_AGENTS_STATE_DIR", str(manager.state_dir))
    monkeypatch.setenv("E2B_DOMAIN", manager.domain)
    assert call("list").code == 0
    monkeypatch.setenv("E2B_API_KEY", "e2b_00")
    assert call("list").code == 1  # the user's own key is used


@pytest.mark.live
def test_the_authority_of_the_manager_of_this_machine_is_trusted(tmp_path: Path) -> None:
    from support.managers import running_manager

    with running_manager(tmp_path, "--tls") as https:
        environment = {
            "PATH": os.environ["PATH"],
            "KRUISE_AGENTS_STATE_DIR": str(https.state_dir),
            "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
        }
        for domain in ({}, {"E2B_DOMAIN": https.domain}):
            # The SDK keeps the authorities of its first request for the life of a process.
            done = subprocess.run(
                [sys.executable, "-m", "kruise_agents", "sandbox", "list", "-q"],
                env=environment | domain,
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_its_key_goes_to_no_other_address(manager: RunningManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRUISE_AGENTS_STATE_DIR", str(manager.state_dir))
    for name, value in (("E2B_DOMAIN", "localhost:1"), ("E2B_API_URL", "http://localhost:1/kruise/api")):
        with monkeypatch.context() as alone:
            alone.setenv(name, value)
            api_url()
            assert "E2B_API_KEY" not in os.environ


def test_without_any_manager_it_says_how_to_get_one(call: Call, tmp_path: Path) -> None:
    done = call("list")
    assert (done.code, done.out) == (1, "")
    assert f"no manager runs with the state folder {tmp_path}/kruise-agents" in done.err
    assert "'kruise-agents serve'" in done.err
    assert done.err.count("\n") == 1


def test_nobody_listens(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_CONNECTION_RETRIES", "0")
    monkeypatch.setenv("E2B_DOMAIN", "localhost:1")
    monkeypatch.setenv("E2B_API_KEY", "e2b_00")
    done = call("list")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("domain", "https", "url"),
    [
        ("sandboxes.example.com", None, "https://sandboxes.example.com/kruise/api"),
        ("sandboxes.example.com", False, "http://sandboxes.example.com/kruise/api"),
        ("10.0.0.7:7788", None, "https://10.0.0.7:7788/kruise/api"),
        ("localhost:1", True, "https://localhost:1/kruise/api"),
        ("localhost:1", None, "http://localhost:1/kruise/api"),
    ],
)
def test_plain_http_is_for_this_machine_or_on_demand(
    domain: str, https: bool | None, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2B_DOMAIN", domain)
    assert api_url(https) == url


@pytest.mark.live
@pytest.mark.parametrize(
    ("answer", "scheme"),
    [(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "http"), (b"\x15\x03\x01\x00\x02\x02\x46", "https")],
)
def test_a_port_of_this_machine_is_asked_for_its_scheme(
    answer: bytes, scheme: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(answer)

        threading.Thread(target=reply, daemon=True).start()
        domain = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("E2B_DOMAIN", domain)
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        assert api_url() == f"{scheme}://{domain}/kruise/api"
    assert f"using {scheme}://{domain}: found out by asking" in capsys.readouterr().err


def test_a_stated_url_says_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_URL", "http://sandboxes.example.com/kruise/api")
    assert api_url() == "http://sandboxes.example.com/kruise/api"


def test_ctrl_c_while_the_manager_is_looked_for_ends_the_command_with_130(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kruise_agents.cli.sandbox.options.connect", interrupted)
    assert call("list") == (130, "", "")
