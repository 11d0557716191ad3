"""A manager that answers as older ones do, and the newest SDK on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from e2b_code_interpreter import AsyncSandbox, Sandbox

from kruise_agents.errors import UnsupportedByManagerError
from support.managers import RunningManager, running_manager

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    with running_manager(tmp_path_factory.mktemp("older"), "--v1-only") as running:
        yield running


@pytest.mark.parametrize("path", ["/v2/sandboxes", "/v2/sandboxes/i1/connect"])
def test_the_v2_routes_are_405_before_the_key_is_looked_at(path: str, older: RunningManager) -> None:
    answer = httpx.post(f"{older.api_url}{path}")
    assert (answer.status_code, answer.text) == (405, "Method Not Allowed\n")
    assert answer.headers["Allow"] == "GET, HEAD"
    assert answer.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/nowhere", "/volumes", "/secrets/x", "/v3/templates"])
def test_unknown_paths_are_404_in_text(path: str, older: RunningManager) -> None:
    with older.api() as api:
        answer = api.post(path)
    assert (answer.status_code, answer.text) == (404, "404 page not found\n")


@pytest.mark.parametrize("path", ["/volumes", "/openapi.json"])
def test_what_newer_managers_have_is_404_before_the_key_is_looked_at(path: str, older: RunningManager) -> None:
    answer = httpx.get(f"{older.api_url}{path}")
    assert (answer.status_code, answer.text) == (404, "404 page not found\n")


def test_connect_needs_a_timeout(older: RunningManager) -> None:
    with older.api() as api:
        made = api.post("/sandboxes", json={"templateID": "base"}).json()
        connect = f"/sandboxes/{made['sandboxID']}/connect"
        answer = api.post(connect, json={})
        assert (answer.status_code, answer.json()["message"]) == (400, "timeout should between 0 and 2592000")
        assert api.post(connect, json={"timeout": 60}).status_code == 200
        api.delete(f"/sandboxes/{made['sandboxID']}")


def test_listing_still_works(older: RunningManager) -> None:
    with older.api() as api:
        assert api.get("/v2/sandboxes").json() == []


@pytest.mark.usefixtures("patched")
def test_the_newest_sdk_runs_on_it_over_the_bridge(older: RunningManager) -> None:
    options = {"domain": older.domain, "api_key": older.api_key}
    with Sandbox.create(**options) as sandbox:
        assert sandbox.run_code("6 * 7").text == "42"
        again = Sandbox.connect(sandbox.sandbox_id, **options)
        assert again.commands.run("echo here").stdout == "here\n"
        with pytest.raises(UnsupportedByManagerError, match="sandbox metrics"):
            sandbox.get_metrics()
        with pytest.raises(UnsupportedByManagerError, match="forking"):
            sandbox.fork()
        assert sandbox.is_running()


@pytest.mark.usefixtures("patched")
def test_the_newest_async_sdk_runs_on_it_over_the_bridge(older: RunningManager) -> None:
    options = {"domain": older.domain, "api_key": older.api_key}

    async def walk() -> str:
        sandbox = await AsyncSandbox.create(**options)
        again = await AsyncSandbox.connect(sandbox.sandbox_id, **options)
        result = await again.commands.run("echo here")
        await sandbox.kill()
        return result.stdout

    assert asyncio.run(walk()) == "here\n"


@pytest.mark.usefixtures("patched")
def test_a_manager_with_the_routes_is_not_bridged(manager: RunningManager) -> None:
    earlier = len(manager.log.read_text())
    with Sandbox.create(domain=manager.domain, api_key=manager.api_key) as sandbox:
        log = manager.log.read_text()[earlier:]
        assert len(sandbox.get_metrics()) == 1
    assert "POST /sandboxes " not in log
