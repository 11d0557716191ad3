"""Managers that a program starts for itself, and the connection file of every manager."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from kruise_agents import __version__
from kruise_agents.embedded import CONNECTION_FILE, Connection, running_manager, start_manager
from kruise_agents.errors import ConfigurationError, KruiseAgentsError, RuntimeUnavailableError
from support.managers import available_runtime, wait_for

CONNECTION = Connection(
    version="1.2.3",
    pid=1,
    url="https://localhost:7788",
    domain="sandboxes.example:7788",
    scheme="https",
    api_url="https://localhost:7788/kruise/api",
    api_key="e2b_secret",
    ca_file=Path("/state/tls/ca.pem"),
    state_dir=Path("/state"),
)


def test_a_connection_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    with CONNECTION.published(path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert Connection.read(path) == CONNECTION
        assert json.loads(path.read_text())["ca_file"] == "/state/tls/ca.pem"
    assert list(tmp_path.iterdir()) == []


def test_a_connection_says_what_a_program_needs_and_hides_its_key() -> None:
    needed = {"E2B_DOMAIN": CONNECTION.domain, "E2B_API_KEY": "e2b_secret", "SSL_CERT_FILE": "/state/tls/ca.pem"}
    assert CONNECTION.environment() == needed
    assert CONNECTION.https
    plain = replace(CONNECTION, scheme="http", ca_file=None)
    assert not plain.https
    assert "SSL_CERT_FILE" not in plain.environment()
    assert "e2b_secret" not in repr(CONNECTION)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"HTTP_PROXY": "http://proxy:3128"}, {"NO_PROXY": "localhost,127.0.0.1,::1"}),
        (
            {"https_proxy": "http://proxy:3128", "no_proxy": "corp.example"},
            {"no_proxy": "corp.example,localhost,127.0.0.1,::1"},
        ),
        ({"http_proxy": "http://proxy:3128", "NO_PROXY": ".example,localhost"}, {}),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "*"}, {}),
        ({"NO_PROXY": "corp.example"}, {}),
    ],
)
def test_a_proxy_that_would_get_the_requests_is_passed_by(
    given: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    here = replace(CONNECTION, domain="localhost:7788")
    assert {name: value for name, value in here.environment().items() if name.lower() == "no_proxy"} == expected
    assert "no_proxy" not in map(str.lower, CONNECTION.environment()), "a domain elsewhere may need the proxy"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', "\xff", '{"version": "1", "pid": "x"}'])
def test_a_damaged_connection_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=f"{path} is no connection file of a manager"):
        Connection.read(path)


def test_a_missing_connection_file_and_one_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        Connection.read(tmp_path / "none.json")
    with (
        pytest.raises(ConfigurationError, match="cannot be written: No such file"),
        CONNECTION.published(tmp_path / "none" / "ready.json"),
    ):
        pass


def test_a_file_that_another_manager_has_replaced_stays(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    other = replace(CONNECTION, pid=2)
    with CONNECTION.published(path):
        later = other.published(path)
        later.__enter__()
    assert Connection.read(path) == other
    later.__exit__(None, None, None)
    assert not path.exists()


def test_a_file_that_a_killed_manager_has_left_is_no_running_manager(tmp_path: Path) -> None:
    path = tmp_path / CONNECTION_FILE
    with CONNECTION.published(path):
        assert running_manager(tmp_path) == CONNECTION
    path.write_text(CONNECTION.to_json())
    with pytest.raises(ConfigurationError, match=f"no manager runs with the state folder {tmp_path}; start one with"):
        running_manager(tmp_path)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "manager.log"


@pytest.fixture(scope="module")
def served(log: Path) -> Iterator[Connection]:
    """A manager that was started beside variables for another one."""
    options = ("--runtime", available_runtime(), "--pool", "0", "--log-level", "info")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KRUISE_AGENTS_KEEP", "true")
        patch.setenv("KRUISE_AGENTS_STATE_DIR", "/nowhere")
        patch.setenv("KRUISE_AGENTS_PORT", "1")
        patch.setenv("KRUISE_AGENTS_API_KEY", "of-another")
        with start_manager(*options, log=log) as connection:
            yield connection
    assert not connection.state_dir.exists()


def test_a_started_manager_is_the_programs_own(served: Connection, log: Path) -> None:
    answer = httpx.get(f"{served.api_url}/sandboxes", headers={"X-API-Key": served.api_key})
    assert answer.json() == []
    assert (served.version, served.scheme, served.https) == (__version__, "http", False)
    assert served.url == f"http://{served.domain}"
    assert served.api_key != "of-another"
    wait_for(lambda: "GET /sandboxes" in log.read_text(), what="the line of the request")


def test_a_started_manager_is_found_by_its_state_folder(served: Connection) -> None:
    assert running_manager(served.state_dir) == served


@pytest.mark.live
def test_a_manager_ends_with_the_program_that_started_it() -> None:
    program = "import os, signal\nfrom kruise_agents.embedded import start_manager\n"
    program += "with start_manager('--runtime', 'process', '--pool', '0') as manager:\n"
    program += "    print(manager.to_json(), flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    connection = Connection.from_json(done.stdout)
    wait_for(lambda: not Path(f"/proc/{connection.pid}").exists(), 30, "the manager's end")
    assert not connection.state_dir.exists()


@pytest.mark.live
def test_a_manager_that_cannot_start_says_why() -> None:
    with pytest.raises(KruiseAgentsError) as raised, start_manager("--domain", "http://x"):
        pass
    assert str(raised.value).startswith("the manager did not start (exit code 2):\n")
    assert "'http://x' has a scheme; use 'x'" in str(raised.value)


@pytest.mark.live
def test_a_machine_without_namespaces_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho cannot isolate >&2; exit 3")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(RuntimeUnavailableError, match="cannot isolate"), start_manager():
        pass


@pytest.mark.live
def test_a_manager_that_is_stuck_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho stuck >&2; echo $$ > pid; exec sleep 600")
    python.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr("kruise_agents.embedded._START_SECONDS", 0.5)
    with pytest.raises(KruiseAgentsError, match="stuck"), start_manager():
        pass
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
