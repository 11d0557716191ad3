"""Checks of the manager, each with the trouble and without it."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kruise_agents.doctor.checks import Finding, Verdict
from support.diagnosis import finding, ids_with, pretend, report
from support.managers import RunningManager, running_manager
from support.raw_servers import OK, answer, raw_server

FINE, WARNING, BROKEN, SKIPPED = Verdict.FINE, Verdict.WARNING, Verdict.BROKEN, Verdict.SKIPPED
JSON = "Content-Type: application/json"
NO_KEY = answer("401 Unauthorized", '{"code": 401, "message": "Invalid API Key"}', JSON)
KEY = {"E2B_API_KEY": "some-api-key"}


@pytest.fixture(scope="module")
def openkruise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    """A manager that answers as OpenKruise's does, with a fixed domain."""
    options = "--like", "openkruise", "--domain", "fixed.example"
    with running_manager(tmp_path_factory.mktemp("openkruise"), *options) as running:
        yield running


def check(id: str, manager: RunningManager, **options: Any) -> Finding:
    return finding(id, manager.environment(), **options)


def check_answers(id: str, replies: dict[bytes, bytes]) -> Finding:
    with raw_server(replies) as server:
        return finding(id, {**KEY, "E2B_DOMAIN": server.domain})


def test_all_is_well(manager: RunningManager) -> None:
    results = report(manager.environment())
    assert ids_with("broken", results) + ids_with("warning", results) == []
    assert set(ids_with("skipped", results)) <= {"tls-trust", "proxy", "clock", "server-domain"}
    assert results["manager"].finding.value.startswith("the embedded manager ")


@pytest.mark.live
def test_a_manager_like_that_of_a_cluster(openkruise: RunningManager) -> None:
    results = report(openkruise.environment())
    assert ids_with("broken", results) == []
    assert ids_with("warning", results) == ["routes"]
    assert "openkruise" in results["manager"].finding.value


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer("200 OK", "<html><title>Welcome</title></html>", "Content-Type: text/html"), "is no manager"),
        (answer("502 Bad Gateway", "", "Server: nginx"), "the manager behind it does not"),
        (answer("500 Internal Server Error", "", "Server: envoy"), "Envoy answers"),
        (answer("302 Found", "", "Location: https://login.example/"), "https://login.example/"),
        (answer("404 Not Found", "404 page not found\n", "Server: traefik"), "is no manager"),
    ],
    ids=["web server", "nginx", "envoy", "login", "another go program"],
)
def test_somebody_else_answers(reply: bytes, reason: str) -> None:
    found = check_answers("manager", {b"": reply})
    assert (found.verdict, reason in found.reason) == (BROKEN, True)


def test_a_server_that_sends_the_api_on_elsewhere() -> None:
    moved = answer("308 Permanent Redirect", "", "Location: https://d.example:8443/kruise/api/health")
    found = check_answers("manager", {b"": moved})
    assert found.command == "export E2B_DOMAIN=d.example:8443   # and patch_e2b() in the program"
    assert check_answers("scheme", {b"": moved}).verdict is SKIPPED


def test_a_proxy_that_refuses_hides_no_manager(manager: RunningManager) -> None:
    """The checks of the manager go on without it."""
    with raw_server(answer("403 Forbidden", "<html></html>", "Content-Type: text/html")) as proxy:
        variables = {"HTTP_PROXY": proxy.domain, "E2B_DOMAIN": manager.domain, "E2B_API_KEY": "another-managers-key"}
        results = report(variables)
    assert ids_with("broken", results) == ["proxy-variables", "proxy", "key-accepted"]
    assert all(b"another-managers-key" not in head for head in proxy.requests)


@pytest.mark.parametrize(
    ("page", "verdict"),
    [
        (answer("200 OK", "<title>Portal</title>", "Content-Type: text/html"), BROKEN),
        (answer("302 Found", "", "Location: /login"), BROKEN),
        (answer("502 Bad Gateway", "no such sandbox", "Content-Type: text/plain"), FINE),
    ],
    ids=["page", "login", "gateway"],
)
def test_a_web_server_that_passes_on_the_api_only(page: bytes, verdict: Verdict) -> None:
    found = check_answers("sandbox-addresses", {b"/api/health": OK, b"/kruise/api/": NO_KEY, b"": page})
    assert found.verdict is verdict


def test_port_8080_of_openkruise() -> None:
    nothing = answer("404 Not Found", "404 page not found\n", "Content-Type: text/plain")
    found = check_answers("sandbox-addresses", {b"v2/sandboxes": NO_KEY, b"": nothing})
    assert (found.verdict, found.command) == (BROKEN, "export E2B_DOMAIN=localhost:7788")


def test_an_embedded_manager_of_another_version() -> None:
    described = answer("200 OK", '{"info": {"title": "kruise-agents sandbox-manager", "version": "0.0.1"}}', JSON)
    found = check_answers("manager", {b"/health": OK, b"/openapi.json": described, b"": NO_KEY})
    assert (found.verdict, "0.0.1" in found.value) == (WARNING, True)


def test_keys(manager: RunningManager) -> None:
    assert check("key-accepted", manager).verdict is FINE
    wrong = finding("key-accepted", {**manager.environment(), "E2B_API_KEY": "e2b_00"})
    assert (wrong.verdict, wrong.value) == (BROKEN, "refused")
    assert finding("key-accepted", {"E2B_DOMAIN": manager.domain}).verdict is SKIPPED


def test_a_manager_without_authentication() -> None:
    found = check_answers("key-accepted", {b"/health": OK, b"": answer("200 OK", "[]", JSON)})
    assert (found.verdict, found.value) == (WARNING, "no key is needed")


def test_the_key_goes_to_nobody_but_a_manager() -> None:
    with raw_server(answer("200 OK", "<html>", "Content-Type: text/html")) as stranger:
        report({**KEY, "E2B_DOMAIN": stranger.domain})
    assert stranger.requests
    assert not any(b"some-api-key" in request for request in stranger.requests)


def test_routes(
    manager: RunningManager, openkruise: RunningManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check("routes", manager).value == "v1 and v2"
    assert (check("routes", openkruise).verdict, check("routes", openkruise).value) == (WARNING, "v1 only")
    pretend("e2b", "2.50.0", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert check("routes", openkruise).verdict is FINE


@pytest.mark.parametrize(("ahead", "verdict"), [(0, FINE), (3600, WARNING), (-3600, WARNING), (None, SKIPPED)])
def test_clocks(ahead: int | None, verdict: Verdict) -> None:
    date = [] if ahead is None else [f"Date: {email.utils.formatdate(time.time() + ahead, usegmt=True)}"]
    found = check_answers("clock", {b"/health": answer("200 OK", "OK", *date), b"": NO_KEY})
    assert found.verdict is verdict
    if ahead:
        assert ("behind" if ahead > 0 else "ahead of") in found.reason


@pytest.mark.live
def test_the_domain_of_the_manager(manager: RunningManager, openkruise: RunningManager) -> None:
    assert check("server-domain", openkruise).verdict is SKIPPED  # no sandbox shows it yet
    for each in (manager, openkruise):
        with each.api() as api:
            api.post("/sandboxes", json={"templateID": "code-interpreter-v1", "timeout": 60}).raise_for_status()
    try:
        assert check("server-domain", manager).verdict is FINE
        fixed = check("server-domain", openkruise)
    finally:
        for each in (manager, openkruise):
            _kill_all(each)
    assert (fixed.verdict, fixed.value) == (WARNING, f"fixed.example, and yours is {openkruise.domain}")


def _kill_all(manager: RunningManager) -> None:
    with manager.api() as api:
        for sandbox in api.get("/v2/sandboxes").json():
            assert api.delete(f"/sandboxes/{sandbox['sandboxID']}").status_code in (httpx.codes.NO_CONTENT, 404)


def test_templates(manager: RunningManager) -> None:
    assert check("templates", manager).value == "code-interpreter-v1"
    missing = check("templates", manager, template="desktop")
    assert (missing.verdict, missing.value) == (WARNING, "no desktop")
    assert missing.command == 'Sandbox.create("base")'
