"""The real SDK on a sandbox whose ID begins with ``api``, without a single request below ``/kruise/api-...``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b_code_interpreter import AsyncSandbox, Sandbox

from kruise_agents.patch_e2b import SandboxIdWarning, patch_e2b
from support.managers import running_manager
from support.recorder import Recorder

pytestmark = pytest.mark.live
# The embedded manager itself gives no such ID.
PRELUDE = """
from kruise_agents.manager.sandboxes import sandbox, service
service.new_sandbox_id = lambda: "api-prod--" + sandbox.new_sandbox_id()
"""


@pytest.fixture(params=[(), ("--like", "openkruise")], ids=["embedded", "like OpenKruise's"])
def wire(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    manager_of_this_kind = running_manager(tmp_path, *request.param, prelude=PRELUDE)
    with manager_of_this_kind as manager, Recorder(upstream=manager.port) as recorder:
        monkeypatch.setenv("E2B_DOMAIN", recorder.domain)
        monkeypatch.setenv("E2B_API_KEY", manager.api_key)
        with patch_e2b(False):
            yield recorder


def assert_all_arrived_by_header(wire: Recorder) -> None:
    data = [request for request in wire.requests if "e2b-sandbox-id" in request.headers]
    assert len(data) >= 7
    assert [request for request in data if request.target.startswith("/kruise")] == []
    assert [target for target in wire.targets if target.startswith("/kruise/api-")] == []


def test_a_sandbox_does_its_work(wire: Recorder) -> None:
    with pytest.warns(SandboxIdWarning):
        made = Sandbox.create()
    assert made.sandbox_id.startswith("api-prod--i")
    for sandbox in (made, Sandbox.connect(made.sandbox_id)):
        sandbox.files.write("a.txt", "text")
        assert sandbox.files.read("a.txt") == "text"
        assert [entry.name for entry in sandbox.files.list(".") if entry.name == "a.txt"] == ["a.txt"]
        process = sandbox.commands.run("read line; echo $line", background=True, stdin=True)
        sandbox.commands.send_stdin(process.pid, "typed\n")
        assert process.wait().stdout == "typed\n"
        assert sandbox.run_code("6*7").text == "42"
        context = sandbox.create_code_context()
        assert sandbox.run_code("x = 1; x", context=context).text == "1"
        assert sandbox.is_running()
    assert made.kill()
    assert not made.is_running()
    assert_all_arrived_by_header(wire)


def test_an_async_sandbox_does_its_work(wire: Recorder) -> None:
    async def scenario() -> None:
        sandbox = await AsyncSandbox.create()
        await sandbox.files.write("a.txt", "text")
        assert await sandbox.files.read("a.txt") == "text"
        assert (await sandbox.commands.run("echo out")).stdout == "out\n"
        watch = await sandbox.files.watch_dir(".", on_event=lambda event: None)
        await watch.stop()
        assert (await sandbox.run_code("6*7")).text == "42"
        await sandbox.create_code_context()
        assert await sandbox.is_running()
        await sandbox.kill()

    with pytest.warns(SandboxIdWarning):
        asyncio.run(scenario())
    assert_all_arrived_by_header(wire)
