"""Calls that meet a sandbox on its way from one state to another. OpenKruise's own tests say what each must do."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.managers import RunningManager, running_manager, wait_for

pytestmark = pytest.mark.live
HOLD = """
import asyncio
from kruise_agents.manager.sandboxes.operations import Operations
from kruise_agents.manager.sandboxes.process import SandboxProcess

def held(method):
    async def wait(self, *arguments):
        (self.layout.root / f"{method.__name__}-came").touch()
        gate = self.layout.root / f"hold-{method.__name__}"
        while gate.exists():
            await asyncio.sleep(0.01)
        await method(self, *arguments)
    return wait

def told(method):
    async def tell(self, sandbox, *arguments, **options):
        (sandbox.process.layout.root / f"{method.__name__}-came").touch()
        return await method(self, sandbox, *arguments, **options)
    return tell

for name in ("freeze", "end"):
    setattr(SandboxProcess, name, held(getattr(SandboxProcess, name)))
for name in ("pause", "resume"):
    setattr(Operations, name, told(getattr(Operations, name)))
"""
"""Code for a manager in which a pause and an end wait as long as a file is there, and a file says that a call came."""
NOT_RESUMABLE = "Failed to resume sandbox: Conflict: sandbox is not resumable, reason: SandboxIsPausing"


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    with running_manager(tmp_path_factory.mktemp("held"), runtime="process", prelude=HOLD) as running:
        yield running


@pytest.fixture
def api(manager: RunningManager) -> Iterator[httpx.Client]:
    with manager.api() as client:
        yield client


@pytest.fixture
def sandbox_id(api: httpx.Client) -> Iterator[str]:
    made: str = api.post("/sandboxes", json={"templateID": "base", "timeout": 600}).json()["sandboxID"]
    yield made
    api.delete(f"/sandboxes/{made}")


@contextlib.contextmanager
def in_the_middle_of(
    step: str, method: str, path: str, manager: RunningManager, sandbox_id: str
) -> Iterator[concurrent.futures.Future[httpx.Response]]:
    """Send a request, and hold it at the step ``freeze`` or ``end`` during the block."""
    gate: Path = manager.folder_of(sandbox_id) / f"hold-{step}"
    gate.touch()
    with manager.api() as api, concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            yield pool.submit(api.request, method, path)
        finally:
            gate.unlink()


def state(api: httpx.Client, sandbox_id: str) -> str:
    answer = api.get(f"/sandboxes/{sandbox_id}")
    return str(answer.json()["state"]) if answer.status_code == 200 else "gone"


class TestPauseUnderWay:
    @pytest.mark.parametrize("path", ["/sandboxes/{}/connect", "/v2/sandboxes/{}/connect"])
    def test_a_connect_does_not_undo_it(
        self, path: str, api: httpx.Client, sandbox_id: str, manager: RunningManager
    ) -> None:
        one = f"/sandboxes/{sandbox_id}"
        with in_the_middle_of("freeze", "POST", f"{one}/pause", manager, sandbox_id) as pause:
            wait_for(lambda: state(api, sandbox_id) == "paused")
            answer = api.post(path.format(sandbox_id), json={"timeout": 60})
            assert answer.status_code == 400
            assert answer.json()["message"].startswith(NOT_RESUMABLE)
            assert not pause.done()
        assert pause.result().status_code == 204
        assert state(api, sandbox_id) == "paused"
        assert api.post(path.format(sandbox_id), json={"timeout": 60}).status_code == 201

    def test_a_resume_does_not_undo_it(self, api: httpx.Client, sandbox_id: str, manager: RunningManager) -> None:
        one = f"/sandboxes/{sandbox_id}"
        with in_the_middle_of("freeze", "POST", f"{one}/pause", manager, sandbox_id):
            wait_for(lambda: state(api, sandbox_id) == "paused")
            answer = api.post(f"{one}/resume", json={"timeout": 60})
            assert (answer.status_code, answer.json()["message"][: len(NOT_RESUMABLE)]) == (409, NOT_RESUMABLE)
        assert state(api, sandbox_id) == "paused"

    def test_a_connect_that_waits_behind_a_pause_does_not_undo_it(
        self, api: httpx.Client, sandbox_id: str, manager: RunningManager
    ) -> None:
        """A snapshot holds the sandbox's turn, so the pause waits, and the sandbox still runs when connect comes."""
        one, folder = f"/sandboxes/{sandbox_id}", manager.folder_of(sandbox_id)
        with manager.api() as other, manager.api() as third, concurrent.futures.ThreadPoolExecutor() as pool:
            with in_the_middle_of("freeze", "POST", f"{one}/snapshots", manager, sandbox_id) as snapshot:
                wait_for((folder / "freeze-came").exists)
                pause = pool.submit(other.post, f"{one}/pause")
                wait_for((folder / "pause-came").exists)
                connect = pool.submit(third.post, f"{one}/connect", json={"timeout": 60})
                wait_for((folder / "resume-came").exists)
            assert snapshot.result().status_code == 201
            assert pause.result().status_code == 204
            assert connect.result().status_code == 400
        assert state(api, sandbox_id) == "paused"


def test_a_connect_to_a_sandbox_that_is_ending_is_404(
    api: httpx.Client, sandbox_id: str, manager: RunningManager
) -> None:
    with in_the_middle_of("end", "DELETE", f"/sandboxes/{sandbox_id}", manager, sandbox_id) as kill:
        wait_for(lambda: state(api, sandbox_id) == "gone")
        answer = api.post(f"/sandboxes/{sandbox_id}/connect", json={"timeout": 60})
        assert answer.status_code == 404
        assert sandbox_id in answer.json()["message"]
        assert not kill.done()
    assert kill.result().status_code == 204


def test_a_paused_sandbox_without_an_end_time_keeps_none(api: httpx.Client) -> None:
    metadata = {"e2b.agents.kruise.io/never-timeout": "true"}
    made = api.post("/sandboxes", json={"templateID": "base", "metadata": metadata}).json()["sandboxID"]
    assert api.post(f"/sandboxes/{made}/pause").status_code == 204
    found = api.get(f"/sandboxes/{made}").json()
    assert (found["state"], found["endAt"]) == ("paused", "0001-01-01T00:00:00Z")
    assert [each["endAt"] for each in api.get("/v2/sandboxes").json() if each["sandboxID"] == made] == [found["endAt"]]
    api.delete(f"/sandboxes/{made}")
