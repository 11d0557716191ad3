"""Pause, resume and end times, as the SDKs and plain REST meet them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.manager.runtime.pause.signals import continue_tree, stop_tree, stopped_in
from kruise_agents.patch_e2b import patch_e2b
from kruise_agents.sandbox.end_of_life import GRACE_SECONDS
from kruise_agents.sandbox.linux.process_tree import descendants as inner_descendants
from support.managers import RunningManager, running_manager, wait_for

pytestmark = pytest.mark.live
EXTENSION = "e2b.agents.kruise.io/"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
TICKER = "i=0; while :; do i=$((i+1)); echo $i > ticks; sleep 0.02; done"


@pytest.fixture
def options(manager: RunningManager) -> dict[str, Any]:
    return {"domain": manager.domain, "api_key": manager.api_key}


@pytest.fixture
def create(api: httpx.Client) -> Iterator[Callable[..., str]]:
    """Makes sandboxes over REST, gives their ids, and ends them after the test."""
    made: list[str] = []

    def create(**body: Any) -> str:
        answer = api.post("/v2/sandboxes", json={"templateID": "base", **body})
        assert answer.status_code == 201, answer.text
        made.append(answer.json()["sandboxID"])
        return made[-1]

    yield create
    for sandbox_id in made:
        api.delete(f"/sandboxes/{sandbox_id}")


def detail(api: httpx.Client, sandbox_id: str) -> dict[str, Any]:
    answer = api.get(f"/sandboxes/{sandbox_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def left(found: dict[str, Any]) -> float:
    return (datetime.fromisoformat(found["endAt"]) - datetime.now(UTC)).total_seconds()


class TestWithItsMemory:
    """Pause with memory: processes are frozen, and continue as if nothing had happened."""

    def test_kernels_commands_and_files_go_on_where_they_were(self, sandbox: Sandbox, options: dict[str, Any]) -> None:
        sandbox.run_code("x = 41")
        command = sandbox.commands.run(TICKER, background=True)
        boot = sandbox.files.read(BOOT_ID)
        assert sandbox.pause() in (True, sandbox.sandbox_id)
        again = Sandbox.connect(sandbox.sandbox_id, **options)
        assert again.run_code("x + 1").text == "42"
        assert command.pid in [process.pid for process in again.commands.list()]
        before = again.files.read("ticks")
        wait_for(lambda: again.files.read("ticks") != before, what="a tick")
        assert again.files.read(BOOT_ID) == boot

    def test_a_command_is_joined_again_by_its_pid(self, sandbox: Sandbox, options: dict[str, Any]) -> None:
        command = sandbox.commands.run("read x; echo got $x", background=True, stdin=True)
        sandbox.pause()
        again = Sandbox.connect(sandbox.sandbox_id, **options)
        joined = again.commands.connect(command.pid)
        again.commands.send_stdin(command.pid, "it\n")
        assert joined.wait().stdout == "got it\n"

    def test_nothing_in_it_runs_meanwhile(self, sandbox: Sandbox, manager: RunningManager) -> None:
        sandbox.commands.run(TICKER, background=True)
        ticks = manager.folder_of(sandbox.sandbox_id) / "rootfs/home/user/ticks"
        wait_for(lambda: ticks.exists() and ticks.read_text())
        sandbox.pause()
        before = ticks.stat().st_mtime_ns
        time.sleep(0.3)  # that nothing happens can only be seen by waiting
        assert ticks.stat().st_mtime_ns == before

    def test_a_stream_goes_silent_and_on(self, sandbox: Sandbox, options: dict[str, Any]) -> None:
        lines: list[str] = []
        loop = "for i in $(seq 1 200); do echo $i; sleep 0.02; done"
        handle = sandbox.commands.run(loop, background=True)
        reader = threading.Thread(target=lambda: handle.wait(on_stdout=lines.append))
        reader.start()
        wait_for(lambda: len(lines) > 3)
        sandbox.pause()
        Sandbox.connect(sandbox.sandbox_id, **options)
        reader.join(30)
        assert "".join(lines).split() == [str(number) for number in range(1, 201)]

    def test_a_job_that_the_user_had_stopped_stays_stopped(self, sandbox: Sandbox, options: dict[str, Any]) -> None:
        command = sandbox.commands.run("exec sleep 5000", background=True)
        sandbox.commands.run(f"kill -STOP {command.pid}")
        sandbox.pause()
        again = Sandbox.connect(sandbox.sandbox_id, **options)
        assert again.commands.run(f"ps -o stat= -p {command.pid}").stdout.startswith("T")

    def test_a_paused_sandbox_can_be_killed(self, sandbox: Sandbox, manager: RunningManager) -> None:
        sandbox.commands.run(TICKER, background=True)
        sandbox.pause()
        assert sandbox.kill() is True
        assert not manager.folder_of(sandbox.sandbox_id).exists()
        assert sandbox.kill() is False

    def test_its_ports_say_that_it_was_not_found(self, sandbox: Sandbox, manager: RunningManager) -> None:
        sandbox.pause()
        answer = httpx.get(manager.sandbox_url(sandbox.sandbox_id, 49983) + "/health")
        assert answer.status_code == 502
        assert answer.json()["message"] == "The sandbox was not found"
        assert sandbox.is_running() is False


class TestFilesOnly:
    """Pause with ``memory: false``: files are kept, processes are ended, and a resume boots the sandbox."""

    def test_files_variables_and_the_token_are_as_before(self, manager: RunningManager, api: httpx.Client) -> None:
        with patch_e2b(False):
            sandbox = Sandbox.create(envs={"FROM_CREATE": "yes"}, domain=manager.domain, api_key=manager.api_key)
            folder = manager.folder_of(sandbox.sandbox_id)
            sandbox.files.write("kept.txt", "kept")
            sandbox.files.write("/tmp/kept.txt", "temporary")
            sandbox.run_code("x = 41")
            command = sandbox.commands.run("sleep 5000", background=True)
            assert api.post(f"/sandboxes/{sandbox.sandbox_id}/pause", json={"memory": False}).status_code == 204
            assert detail(api, sandbox.sandbox_id)["pauseMode"] == "filesystem"
            assert (folder / "variables").stat().st_mode & 0o777 == 0o600
            assert api.post(f"/v2/sandboxes/{sandbox.sandbox_id}/connect", json={}).status_code == 201
            assert not (folder / "variables").exists()
            assert sandbox.files.read("kept.txt") == "kept"
            assert sandbox.files.read("/tmp/kept.txt") == "temporary"
            assert sandbox.commands.run("echo $FROM_CREATE $E2B_SANDBOX").stdout == "yes true\n"
            assert command.pid not in [process.pid for process in sandbox.commands.list()]
            assert "NameError" in str(sandbox.run_code("x").error)
            sandbox.commands.run("test $(stat -c %U kept.txt) = $(whoami)")
            sandbox.kill()

    def test_a_connect_can_ask_for_a_boot(self, sandbox: Sandbox, api: httpx.Client) -> None:
        sandbox.files.write("kept.txt", "kept")
        command = sandbox.commands.run("sleep 5000", background=True)
        sandbox.pause()
        answer = api.post(f"/v2/sandboxes/{sandbox.sandbox_id}/connect", json={"memory": False})
        assert answer.status_code == 201
        assert sandbox.files.read("kept.txt") == "kept"
        assert command.pid not in [process.pid for process in sandbox.commands.list()]

    @pytest.mark.needs("namespaces")
    def test_each_boot_has_an_id_of_its_own(self, sandbox: Sandbox, options: dict[str, Any], api: httpx.Client) -> None:
        first = sandbox.files.read(BOOT_ID)
        assert str(uuid.UUID(first.strip())) == first.strip()
        assert sandbox.commands.run(f"cat {BOOT_ID}").stdout == first
        assert sandbox.run_code(f"open({BOOT_ID!r}).read()").text == repr(first).strip("'")
        assert Path(BOOT_ID).read_text() != first
        assert api.post(f"/sandboxes/{sandbox.sandbox_id}/pause", json={"memory": False}).status_code == 204
        second = Sandbox.connect(sandbox.sandbox_id, **options).files.read(BOOT_ID)
        with Sandbox.create(**options) as other:
            third = other.files.read(BOOT_ID)
        assert len({first, second, third}) == 3


class TestStatuses:
    """The answer to each request in each state."""

    def test_a_running_sandbox(self, create: Callable[..., str], api: httpx.Client) -> None:
        one = f"/sandboxes/{create()}"
        assert api.post(f"{one}/connect", json={"timeout": 10}).status_code == 200
        resumed = api.post(f"{one}/resume")
        assert (resumed.status_code, "is already running" in resumed.text) == (409, True)
        assert api.post(f"{one}/refreshes", json={"duration": 1000}).status_code == 204
        assert left(api.get(one).json()) > 900
        assert api.post(f"{one}/refreshes", json={}).status_code == 204
        assert left(api.get(one).json()) > 900

    @pytest.mark.parametrize("body", [b"", b"{}", b'{"memory":true}'])
    def test_pause_takes_the_body_of_every_sdk_generation(
        self, body: bytes, create: Callable[..., str], api: httpx.Client
    ) -> None:
        assert api.post(f"/sandboxes/{create()}/pause", content=iter([body])).status_code == 204

    def test_a_paused_sandbox(self, create: Callable[..., str], api: httpx.Client) -> None:
        sandbox_id = create(metadata={"who": "me"})
        one = f"/sandboxes/{sandbox_id}"
        token = detail(api, sandbox_id)["envdAccessToken"]
        before = datetime.now(UTC)
        assert api.post(f"{one}/pause").status_code == 204
        assert api.post(f"{one}/pause").status_code == 204, "OpenKruise's manager says so, E2B's 409"
        found = detail(api, sandbox_id)
        assert (found["state"], found["pauseMode"], found["domain"]) == ("paused", "full", None)
        assert (found["envdAccessToken"], found["metadata"]) == (token, {"who": "me"})
        assert before <= datetime.fromisoformat(found["endAt"]) <= datetime.now(UTC)
        for path, body in (("timeout", {"timeout": 60}), ("timeout", {"timeout": 0}), ("refreshes", {})):
            assert api.post(f"{one}/{path}", json=body).status_code == 404
        assert api.post(f"{one}/resume", json={"timeout": 40}).status_code == 201
        assert 30 < left(detail(api, sandbox_id)) <= 40
        assert detail(api, sandbox_id)["startedAt"] > found["startedAt"]

    def test_a_gone_sandbox(self, create: Callable[..., str], api: httpx.Client) -> None:
        one = f"/sandboxes/{create()}"
        assert api.delete(one).status_code == 204
        for path in ("pause", "resume", "connect", "refreshes"):
            assert api.post(f"{one}/{path}").status_code == 404
        assert api.post(f"{one}/timeout", json={"timeout": 1}).status_code == 404

    def test_lists_tell_the_states_apart(self, create: Callable[..., str], api: httpx.Client) -> None:
        paused, running = create(metadata={"of": "states"}), create(metadata={"of": "states"})
        api.post(f"/sandboxes/{paused}/pause")

        def ids(**query: str) -> set[str]:
            answer = api.get("/v2/sandboxes", params={"metadata": "of=states", **query})
            assert ("x-total-running" in answer.headers) is (query.get("state") != "paused")
            return {one["sandboxID"] for one in answer.json()}

        assert ids(state="paused") == {paused}
        assert ids(state="running") == {running}
        assert ids(state="running,paused") == ids() == {paused, running}

    def test_connects_at_once_resume_once(self, create: Callable[..., str], api: httpx.Client) -> None:
        sandbox_id = create()
        api.post(f"/sandboxes/{sandbox_id}/pause")
        statuses: list[int] = []

        def connect() -> None:
            statuses.append(api.post(f"/v2/sandboxes/{sandbox_id}/connect", json={}).status_code)

        threads = [threading.Thread(target=connect) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] * 5 + [201]


class TestEndTimes:
    """The end of a sandbox's time."""

    def test_auto_pause_pauses_and_connect_brings_it_back(self, create: Callable[..., str], api: httpx.Client) -> None:
        sandbox_id = create(autoPause=True, timeout=1)
        assert detail(api, sandbox_id)["lifecycle"] == {"autoResume": False, "onTimeout": "pause"}
        wait_for(lambda: detail(api, sandbox_id)["state"] == "paused")
        # While the pause is under way, a connect is refused.
        wait_for(lambda: api.post(f"/sandboxes/{sandbox_id}/connect", json={"timeout": 1}).status_code == 201)
        wait_for(lambda: detail(api, sandbox_id)["state"] == "paused")

    def test_auto_pause_may_keep_files_only(self, create: Callable[..., str], api: httpx.Client) -> None:
        sandbox_id = create(autoPause=True, autoPauseMemory=False)
        assert api.post(f"/sandboxes/{sandbox_id}/timeout", json={"timeout": 0}).status_code == 204
        assert detail(api, sandbox_id)["pauseMode"] == "filesystem"

    @pytest.mark.parametrize("wish", [{"enabled": True}, {"policy": "any"}])
    def test_traffic_resumes_a_sandbox_that_wants_it(
        self, wish: dict[str, Any], create: Callable[..., str], api: httpx.Client, manager: RunningManager
    ) -> None:
        sandbox_id = create(autoPause=True, autoResume=wish, timeout=30)
        assert detail(api, sandbox_id)["lifecycle"] == {"autoResume": True, "onTimeout": "pause"}
        api.post(f"/sandboxes/{sandbox_id}/pause")
        assert httpx.get(manager.sandbox_url(sandbox_id, 49983) + "/health", timeout=20).status_code == 204
        assert detail(api, sandbox_id)["state"] == "running"
        assert left(detail(api, sandbox_id)) > 250, "300 seconds at least"

    def test_traffic_without_its_token_does_not_wake_a_protected_one(
        self, create: Callable[..., str], api: httpx.Client, manager: RunningManager
    ) -> None:
        protect = {"security.agents.kruise.io/enable-jwt-auth": "true"}
        sandbox_id = create(metadata=protect, autoResume={"enabled": True})
        api.post(f"/sandboxes/{sandbox_id}/pause")
        assert httpx.get(manager.sandbox_url(sandbox_id, 49983) + "/health").status_code == 403
        assert detail(api, sandbox_id)["state"] == "paused"

    def test_an_end_time_that_passed_in_the_pause_does_not_count_after_it(
        self, create: Callable[..., str], api: httpx.Client
    ) -> None:
        sandbox_id = create(timeout=2)
        assert api.post(f"/sandboxes/{sandbox_id}/pause").status_code == 204
        paused = time.time()
        wait_for(lambda: time.time() > paused + 2 + GRACE_SECONDS + 1.5, 20, "what was the end, and more")
        assert api.post(f"/sandboxes/{sandbox_id}/connect", json={"timeout": 60}).status_code == 201
        resumed = time.time()
        wait_for(lambda: time.time() > resumed + GRACE_SECONDS + 1, 20, "the moment at which it would end itself")
        assert detail(api, sandbox_id)["state"] == "running"

    def test_a_sandbox_without_an_end_time_keeps_none(self, create: Callable[..., str], api: httpx.Client) -> None:
        sandbox_id = create(metadata={f"{EXTENSION}never-timeout": "true", "k": "v"}, timeout=1)
        one = f"/sandboxes/{sandbox_id}"
        for path, body in (("timeout", {"timeout": 0}), ("timeout", {"timeout": 1}), ("refreshes", {})):
            assert api.post(f"{one}/{path}", json=body).status_code == 204
        assert api.post(f"{one}/connect", json={"timeout": 1}).status_code == 200
        found = detail(api, sandbox_id)
        assert (found["endAt"], found["metadata"]) == ("0001-01-01T00:00:00Z", {"k": "v"})

    @pytest.mark.parametrize("by", ["metadata", "header"])
    def test_a_paused_sandbox_is_kept_as_long_as_was_asked(
        self, by: str, create: Callable[..., str], api: httpx.Client
    ) -> None:
        key = f"{EXTENSION}reserve-paused-sandbox-duration"
        sandbox_id = create(metadata={key: "300ms" if by == "metadata" else "1h"})
        headers = {} if by == "metadata" else {"x-e2b-kruise-reserve-paused-sandbox-duration": "300ms"}
        assert api.post(f"/sandboxes/{sandbox_id}/pause", headers=headers).status_code == 204
        wait_for(lambda: api.get(f"/sandboxes/{sandbox_id}").status_code == 404)

    def test_the_header_wins_also_when_it_says_for_ever(self, create: Callable[..., str], api: httpx.Client) -> None:
        sandbox_id = create(metadata={f"{EXTENSION}reserve-paused-sandbox-duration": "1ms"})
        headers = {"x-e2b-kruise-reserve-paused-sandbox-duration": "forever"}
        assert api.post(f"/sandboxes/{sandbox_id}/pause", headers=headers).status_code == 204
        assert detail(api, sandbox_id)["state"] == "paused"

    @pytest.mark.parametrize("value", ["-1h", "0", "soon", "1", "5 m"])
    def test_a_bad_duration_is_refused_and_nothing_paused(
        self, value: str, create: Callable[..., str], api: httpx.Client
    ) -> None:
        sandbox_id = create()
        headers = {"x-e2b-kruise-reserve-paused-sandbox-duration": value}
        answer = api.post(f"/sandboxes/{sandbox_id}/pause", headers=headers)
        assert answer.status_code == 400
        assert f'"{value}"' in answer.json()["message"]
        assert detail(api, sandbox_id)["state"] == "running"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    """A manager whose sandboxes are paused by signals."""
    with running_manager(tmp_path_factory.mktemp("bare"), runtime="process") as running:
        yield running


class TestBySignals:
    """Pause by signals, without control groups and without any isolation."""

    def test_a_sandbox_is_paused_goes_on_and_can_be_killed(self, bare: RunningManager) -> None:
        with patch_e2b(False), bare.api() as api:
            sandbox = Sandbox.create(domain=bare.domain, api_key=bare.api_key)
            sandbox.run_code("x = 41")
            command = sandbox.commands.run(TICKER, background=True)
            stopped = sandbox.commands.run("exec sleep 5000", background=True)
            os.kill(stopped.pid, signal.SIGSTOP)
            sandbox.pause()
            wait_for(lambda: command.pid not in _awake(command.pid))
            assert api.post(f"/sandboxes/{sandbox.sandbox_id}/connect", json={"timeout": 60}).status_code == 201
            assert sandbox.run_code("x + 1").text == "42"
            assert stopped.pid not in _awake(stopped.pid)
            sandbox.pause()
            assert sandbox.kill() is True
            assert not Path(f"/proc/{command.pid}").exists()

    def test_the_report_says_how(self, bare: RunningManager) -> None:
        report = httpx.get(f"{bare.api_url}/health", headers={"Accept": "application/json"}).json()
        assert report["pause"] == "stopping each of their processes (SIGSTOP)"

    @pytest.mark.parametrize("look", [lambda pid: stopped_in(pid, spare_root=False), inner_descendants])
    def test_processes_may_end_while_they_are_looked_for(self, look: Callable[[int], object]) -> None:
        churn = ["bash", "-c", "while :; do for one in 1 2 3 4; do /bin/true & done; wait; done"]
        with subprocess.Popen(churn) as churning:
            try:
                for _ in range(10_000):
                    look(churning.pid)
            finally:
                churning.kill()

    def test_a_tree_that_keeps_forking_is_stopped_whole(self) -> None:
        root = os.fork()
        if root == 0:
            os.execlp("sh", "sh", "-c", "while :; do sh -c 'sleep 0.005 & sleep 0.002; wait'; done")
        try:
            wait_for(lambda: Path(f"/proc/{root}/task/{root}/children").read_text())
            stop_tree(root, spare_root=False)
            wait_for(lambda: not _awake(root), what="a tree in which nothing runs")
            before = _numbers(root)
            time.sleep(0.1)  # that nothing is forked can only be seen by waiting
            assert _numbers(root) == before
            assert set(stopped_in(root, spare_root=False)) <= set(before)
            continue_tree(root, ())
            wait_for(lambda: _numbers(root) != before, what="a new process")
        finally:
            stop_tree(root, spare_root=False)
            for pid in reversed(_numbers(root)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(root, 0)

    def test_a_tree_that_cannot_be_stopped_whole_runs_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & wait"], start_new_session=True) as tree:
            try:
                wait_for(lambda: len(_numbers(tree.pid)) == 3)
                _, job, foreign = _numbers(tree.pid)
                os.kill(job, signal.SIGSTOP)
                wait_for(lambda: stopped_in(tree.pid, spare_root=False) == (job,))
                kill = os.kill

                def refuse(pid: int, number: int) -> None:
                    if pid == foreign:
                        raise PermissionError(1, "Operation not permitted")
                    kill(pid, number)

                monkeypatch.setattr(os, "kill", refuse)
                with pytest.raises(PermissionError):
                    stop_tree(tree.pid, spare_root=False)
                wait_for(lambda: stopped_in(tree.pid, spare_root=False) == (job,), what="the rest going on")
            finally:
                os.killpg(tree.pid, signal.SIGKILL)


def _numbers(root: int) -> list[int]:
    found = [root]
    for pid in found:
        with contextlib.suppress(OSError):
            found += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found


def _awake(root: int) -> list[int]:
    states = {}
    for pid in _numbers(root):
        with contextlib.suppress(OSError):
            states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    # D: a parent that waits for the exec of a stopped child (vfork) cannot do anything either.
    return [pid for pid, state in states.items() if state not in "TZD"]


def test_the_time_to_live_counts_from_the_resume(create: Callable[..., str], api: httpx.Client) -> None:
    sandbox_id = create(timeout=1000)
    api.post(f"/sandboxes/{sandbox_id}/pause")
    api.post(f"/v2/sandboxes/{sandbox_id}/connect", json={"timeout": 50})
    found = detail(api, sandbox_id)
    life = datetime.fromisoformat(found["endAt"]) - datetime.fromisoformat(found["startedAt"])
    assert life == pytest.approx(timedelta(seconds=50), abs=timedelta(seconds=1))
