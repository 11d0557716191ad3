"""Checks of this machine, each with the trouble and without it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from kruise_agents.doctor.checks import Verdict
from kruise_agents.keys import encode_key
from support.diagnosis import finding, pretend
from support.managers import RunningManager
from support.raw_servers import OK, RawServer, raw_server, self_made

FINE, WARNING, BROKEN, SKIPPED = Verdict.FINE, Verdict.WARNING, Verdict.BROKEN, Verdict.SKIPPED


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with raw_server(OK) as running:
        yield running


@pytest.mark.parametrize(
    ("domain", "verdict"),
    [("localhost:7788", FINE), ("", BROKEN), ("  ", BROKEN), ("e2b.app", BROKEN), ("E2B.DEV", BROKEN)],
)
def test_a_domain_must_be_set(domain: str, verdict: Verdict) -> None:
    assert finding("domain-set", {"E2B_DOMAIN": domain}).verdict is verdict


def test_an_unset_domain() -> None:
    assert finding("domain-set").verdict is BROKEN
    assert finding("domain-form").verdict is SKIPPED
    assert finding("domain-set", domain="d.example").verdict is FINE


def test_a_manager_that_runs_here_is_named(manager: RunningManager) -> None:
    state = {"KRUISE_AGENTS_STATE_DIR": str(manager.state_dir)}
    for id in ("domain-set", "key-set"):
        found = finding(id, state)
        assert (found.verdict, found.command) == (BROKEN, 'eval "$(kruise-agents env)"')
    assert manager.domain in finding("domain-set", state).reason


@pytest.mark.parametrize(
    ("domain", "command"),
    [
        ("http://localhost:7788", "export E2B_DOMAIN=localhost:7788"),
        ("d.example/kruise", "export E2B_DOMAIN=d.example"),
        ("::1", "export E2B_DOMAIN=[::1]"),
        ("my domain", "export E2B_DOMAIN=mydomain"),
        ("localhost:port", "export E2B_DOMAIN=your.domain.com"),
    ],
)
def test_a_malformed_domain(domain: str, command: str) -> None:
    found = finding("domain-form", {"E2B_DOMAIN": domain})
    assert (found.verdict, found.command) == (BROKEN, command)


def test_a_good_domain() -> None:
    found = finding("domain-form", {"E2B_DOMAIN": "Localhost:7788/"})
    assert (found.verdict, found.value) == (FINE, "localhost:7788")


def test_a_key_must_be_set() -> None:
    assert finding("key-set").value == "not set"
    assert finding("key-set", {"E2B_API_KEY": " "}).value == "empty"
    assert finding("key-set", {"E2B_API_KEY": "some"}).verdict is FINE


@pytest.mark.parametrize(
    ("key", "verdict"),
    [
        ("some-api-key", FINE),
        (encode_key("some-api-key"), FINE),
        ("e2b_0123", FINE),
        ("'some-api-key'", BROKEN),
        (encode_key("some-api-key")[:-1], BROKEN),
        (encode_key("some-api-key").replace("736f", "736e"), BROKEN),
        ("some-api-key\n", WARNING),
        ("", SKIPPED),
    ],
)
def test_the_form_of_the_key(key: str, verdict: Verdict) -> None:
    found = finding("key-form", {"E2B_API_KEY": key})
    assert found.verdict is verdict
    assert "some" not in f"{found.value}{found.reason}"


@pytest.mark.parametrize(
    ("version", "verdict"), [("2.24.0", FINE), ("2.25.0", WARNING), ("2.45.1", WARNING), ("2.46.0", FINE)]
)
def test_sdks_that_check_keys(version: str, verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend("e2b", version, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert finding("key-form", {"E2B_API_KEY": "some-api-key"}).verdict is verdict
    assert finding("key-form", {"E2B_API_KEY": encode_key("some-api-key")}).verdict is FINE


def test_python_must_fit_the_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert finding("python").verdict is FINE
    pretend("e2b", "99.0", tmp_path, "Requires-Python: >=4")
    monkeypatch.syspath_prepend(tmp_path)
    found = finding("python")
    assert (found.verdict, "e2b 99.0 needs Python >=4" in found.reason) == (BROKEN, True)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("E2B_API_TOKEN", "E2B_API_KEY"),
        ("E2B_APIKEY", "E2B_API_KEY"),
        ("e2b_domain", "E2B_DOMAIN"),
        ("E2B_URL", "E2B_DOMAIN"),
    ],
)
def test_misspelled_variables(name: str, right: str) -> None:
    found = finding("variable-names", {name: "secret-value"})
    assert (found.verdict, found.value) == (BROKEN, name)
    assert right in found.reason
    assert "secret-value" not in f"{found}"
    assert finding("variable-names", {name: "x", right: "y"}).verdict is FINE


def test_variables_with_addresses(server: RawServer) -> None:
    domain = {"E2B_DOMAIN": server.domain}

    def check(**variables: str) -> tuple[Verdict, str]:
        found = finding("url-variables", domain | variables)
        return found.verdict, found.reason

    assert check() == (FINE, "")
    assert check(E2B_API_URL=f"http://{server.domain}/kruise/api", E2B_SANDBOX_URL=f"http://{server.domain}")[0] is FINE
    assert check(E2B_API_URL=f"http://{server.domain}")[0] is BROKEN
    assert "lacks the path /kruise/api" in check(E2B_API_URL=f"http://{server.domain}")[1]
    assert "an address of E2B" in check(E2B_API_URL="https://api.e2b.dev")[1]
    assert "no http or https URL" in check(E2B_API_URL="localhost:80")[1]
    assert check(E2B_SANDBOX_URL="http://nothing.invalid/")[0] is BROKEN
    with raw_server(OK) as other:
        assert check(E2B_SANDBOX_URL=f"http://{other.domain}")[0] is WARNING


def test_debug_mode() -> None:
    assert finding("debug-variable", {"E2B_DEBUG": "True"}).verdict is BROKEN
    assert finding("debug-variable", {"E2B_DEBUG": "false"}).verdict is FINE


def test_proxies_before_this_machine() -> None:
    variables = {
        "E2B_DOMAIN": "localhost:7788",
        "HTTPS_PROXY": "http://user:secret@proxy.example:3128",
        "NO_PROXY": "a.b",
    }
    found = finding("proxy-variables", variables)
    assert (found.verdict, found.value) == (BROKEN, "http://proxy.example:3128")
    assert found.command == "export NO_PROXY=a.b,localhost,127.0.0.1,::1 no_proxy=a.b,localhost,127.0.0.1,::1"
    assert finding("proxy-variables", variables | {"NO_PROXY": "localhost"}).verdict is FINE
    assert finding("proxy-variables", variables | {"E2B_DOMAIN": "d.example"}).verdict is FINE
    assert finding("proxy-variables", {"E2B_DOMAIN": "localhost", "all_proxy": "proxy"}).verdict is BROKEN
    assert finding("proxy-variables", {"all_proxy": "proxy"}).verdict is SKIPPED


def test_the_file_of_authorities(tmp_path: Path) -> None:
    def check(name: str) -> tuple[Verdict, str]:
        found = finding("certificate-file", {"SSL_CERT_FILE": str(tmp_path / name)})
        return found.verdict, found.reason

    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "empty.pem").write_text("nothing\n")
    (tmp_path / "cut.pem").write_text((tmp_path / "ca.pem").read_text()[:300])
    assert check("ca.pem")[0] is FINE
    assert check("missing.pem")[0] is BROKEN
    assert check("empty.pem")[0] is BROKEN
    assert check("cut.pem")[0] is BROKEN
    assert finding("certificate-file").verdict is FINE
    assert finding("certificate-file", {"SSL_CERT_DIR": str(tmp_path / "none")}).verdict is BROKEN


def test_expired_authorities(tmp_path: Path) -> None:
    _, path = self_made(tmp_path, authority=True, until=datetime.timedelta(hours=-1))
    found = finding("certificate-file", {"SSL_CERT_FILE": str(path)})
    assert (found.verdict, "expired" in found.reason) == (BROKEN, True)
