"""Sandboxes whose ID begins with ``api``, which OpenKruise's manager cannot reach at their private path."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import e2b
import pytest
from packaging.version import Version

from kruise_agents.patch_e2b import SandboxIdWarning, patch_e2b
from support.recorder import Answer, RecordedRequest, Recorder
from support.sdk import ASYNC, CODE_INTERPRETER_VERSION, SYNC, build_sandbox, class_name

ENVD, JUPYTER = "49983", "49999"
SENDS_NO_HEADERS = CODE_INTERPRETER_VERSION is not None and Version("2.9.0") > CODE_INTERPRETER_VERSION


class OpenKruise(Recorder):
    """A server that takes every path below ``/kruise/api`` for its API, as OpenKruise's manager does."""

    sandbox_id = ""

    def respond(self, request: RecordedRequest) -> Answer:
        made = {"templateID": "t", "sandboxID": self.sandbox_id, "clientID": "c", "envdVersion": "0.4.0"}
        if request.target.startswith("/kruise/api"):
            known = request.method == "POST" and request.route.partition("/sandboxes")[0] in ("", "/v2")
            return Answer.json(201, made) if known else Answer.text(404, "404 page not found")
        return super().respond(request)

    @property
    def data(self) -> list[RecordedRequest]:
        return [request for request in self.requests if not request.target.startswith("/kruise/api/")]


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenKruise]:
    with OpenKruise() as running:
        assert isinstance(running, OpenKruise)
        # A process warns once of an ID.
        running.sandbox_id = f"api-prod--{request.node.name.partition('[')[0][-20:].replace('_', '-')}-{running.port}"
        monkeypatch.setenv("E2B_DOMAIN", running.domain)
        with patch_e2b(False):
            yield running


def use(sandbox: Any) -> None:
    sandbox.files.write("/a", "text")
    sandbox.files.exists("/a")
    sandbox.is_running()
    calls = [lambda: sandbox.files.read("/a"), lambda: sandbox.commands.run("true")]
    if hasattr(sandbox, "run_code") and not SENDS_NO_HEADERS:
        calls += [lambda: sandbox.run_code("1"), lambda: sandbox.create_code_context()]
    for call in calls:
        with contextlib.suppress(e2b.SandboxException):  # the server notes requests, and gives no real answers
            call()


async def use_async(sandbox: Any) -> None:
    await sandbox.files.write("/a", "text")
    await sandbox.files.exists("/a")
    await sandbox.is_running()
    calls = [lambda: sandbox.files.read("/a"), lambda: sandbox.commands.run("true")]
    if hasattr(sandbox, "run_code") and not SENDS_NO_HEADERS:
        calls += [lambda: sandbox.run_code("1"), lambda: sandbox.create_code_context()]
    for call in calls:
        with contextlib.suppress(e2b.SandboxException):  # the server notes requests, and gives no real answers
            await call()


@pytest.mark.parametrize("method", ["create", "connect"])
@pytest.mark.parametrize("cls", [*SYNC, *ASYNC], ids=class_name)
def test_calls_carry_routing_headers_and_the_bare_path(cls: Any, method: str, server: OpenKruise) -> None:
    async def scenario() -> None:
        arguments = () if method == "create" else (server.sandbox_id,)
        made = getattr(cls, method)(*arguments)
        await use_async(await made) if asyncio.iscoroutine(made) else use(made)

    with pytest.warns(SandboxIdWarning, match=server.sandbox_id):
        asyncio.run(scenario())
    assert {"/files", "/health", "/process.Process/Start"} <= {request.route for request in server.data}
    assert [request.target for request in server.data if request.target.startswith("/kruise")] == []
    assert {request.headers["e2b-sandbox-id"] for request in server.data} == {server.sandbox_id}
    ports = {request.headers["e2b-sandbox-port"] for request in server.data}
    jupyter = {request.route for request in server.data if request.headers["e2b-sandbox-port"] == JUPYTER}
    if hasattr(cls, "run_code") and not SENDS_NO_HEADERS:
        assert (ports, jupyter) == ({ENVD, JUPYTER}, {"/execute", "/contexts"})
    else:
        assert ports == {ENVD}


def test_addresses_for_others_keep_the_private_path(server: OpenKruise) -> None:
    sandbox_id = server.sandbox_id
    with pytest.warns(SandboxIdWarning, match=r"e2b-code-interpreter 2\.9\.0.*get_host\(\).*namespace"):
        sandbox = build_sandbox(sandbox_id=sandbox_id)
    base = f"{server.domain}/kruise/{sandbox_id}"
    assert sandbox.get_host(3000) == f"{base}/3000"
    assert sandbox.download_url("/a").startswith(f"http://{base}/{ENVD}/files?")
    assert sandbox.get_mcp_url() == f"http://{base}/50005/mcp"


@pytest.mark.parametrize("sandbox_id", ["ap", "Api-prod--a", "i-api", "team--api", "prod-api--a"])
def test_other_ids_are_addressed_by_path_without_a_warning(sandbox_id: str, server: OpenKruise) -> None:
    sandbox = build_sandbox(sandbox_id=sandbox_id)
    assert sandbox.envd_api_url == f"http://{server.domain}/kruise/{sandbox_id}/{ENVD}"


def test_the_warning_comes_once_for_an_id_and_costs_no_sandbox(
    server: OpenKruise, caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with caplog.at_level(logging.WARNING, "kruise_agents"):
            assert build_sandbox(sandbox_id=server.sandbox_id).sandbox_id == server.sandbox_id
        assert server.sandbox_id in caplog.text
        build_sandbox(sandbox_id=server.sandbox_id)


def test_a_domain_that_begins_with_api_has_no_header_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_DOMAIN", "api.example.com")
    with patch_e2b(), pytest.warns(SandboxIdWarning):
        sandbox = build_sandbox(sandbox_id="api-prod--below-api")
    assert sandbox.envd_api_url == "https://api.example.com/kruise/api-prod--below-api/49983"


def test_a_stated_sandbox_url_and_an_unpatched_object_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_DOMAIN", "one.example")
    unpatched = e2b.ConnectionConfig()
    with patch_e2b():
        stated = e2b.ConnectionConfig(sandbox_url="http://stated.example")
        of_stated = build_sandbox(config=stated, sandbox_id="api-prod--stated")
        of_unpatched = build_sandbox(config=unpatched, sandbox_id="api-prod--unpatched")
        assert of_stated.envd_api_url == "http://stated.example"
        assert of_unpatched.envd_api_url.endswith("one.example")
        assert "kruise" not in of_unpatched.envd_api_url
    for config in (stated, unpatched):
        assert not {name.lower() for name in config.sandbox_headers} & {"e2b-sandbox-id", "e2b-sandbox-port"}
