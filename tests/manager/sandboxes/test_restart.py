"""Every kind of end of a manager, and the next manager on the same state folder."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.manager.state.database import Database
from kruise_agents.manager.state.tables import SandboxRow
from kruise_agents.patch_e2b import patch_e2b
from kruise_agents.sandbox.end_of_life import GRACE_SECONDS
from support.kills import BACKGROUND, Busy, assert_only_what_is_listed, folder_names, folders, kill_everything, listed
from support.managers import (
    RunningManager,
    assert_ends,
    available_runtime,
    descendants,
    processes_with,
    running_manager,
    serve_command,
    wait_for,
)

pytestmark = pytest.mark.live
MARK = f"sleep 98{os.getpid() % 100_000:05}"
"""With two more digits the background programs of one test, and of no other run of the tests."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for managers that are killed. Processes that the managers leave behind are ended after the test."""
    yield tmp_path
    with running_manager(tmp_path):
        pass
    assert not (tmp_path / "state" / "sandboxes").exists()


@pytest.fixture(autouse=True)
def patched() -> Iterator[None]:
    with patch_e2b(False):
        yield


def options(manager: RunningManager) -> dict[str, Any]:
    return {"domain": manager.domain, "api_key": manager.api_key}


def kill(manager: RunningManager) -> None:
    manager.process.kill()
    manager.process.wait()


def test_a_killed_managers_sandboxes_go_on_with_all_that_runs_in_them(folder: Path) -> None:
    with running_manager(folder) as manager:
        sandbox = Sandbox.create(metadata={"who": "me"}, timeout=600, **options(manager))
        sandbox.run_code("x = 41")
        sandbox.files.write("kept.txt", "kept")
        background = sandbox.commands.run(f"{MARK}01", background=True)
        before = sandbox.get_info()
        wait_for(lambda: processes_with(f"{MARK}01"))
        kill(manager)
        assert processes_with(f"{MARK}01")
    with running_manager(folder) as manager:
        again = Sandbox.connect(sandbox.sandbox_id, **options(manager))
        assert again.run_code("x + 1").text == "42"
        assert again.files.read("kept.txt") == "kept"
        assert background.pid in [process.pid for process in again.commands.list()]
        after = again.get_info()
        assert (after.metadata, after.started_at, after.end_at) == ({"who": "me"}, before.started_at, before.end_at)
        assert again.kill() is True
        assert processes_with(f"{MARK}01") == []
        assert folders(manager) == set()


@pytest.mark.needs("namespaces")
def test_what_is_taken_over_is_still_held_to_its_limits(folder: Path) -> None:
    with running_manager(folder, "--memory", "256") as manager:
        sandbox = Sandbox.create(timeout=600, **options(manager))
        kill(manager)
    hog = "import time; kept = bytearray(b'x' * 90_000_000); time.sleep(20)"
    hogs = f'for _ in 1 2 3 4; do python -c "{hog}" & done; wait'
    with running_manager(folder) as manager:
        again = Sandbox.connect(sandbox.sandbox_id, **options(manager))
        assert again.get_info().memory_mb == 256
        again.commands.run(hogs, background=True)
        wait_for(lambda: "of 256 MiB of memory" in manager.log.read_text())
        wait_for(lambda: again.commands.run("echo fine").stdout == "fine\n")


def test_the_tokens_of_before_still_open_the_sandbox_and_stand_in_no_file(folder: Path) -> None:
    protect = {"security.agents.kruise.io/enable-jwt-auth": "true"}
    with running_manager(folder) as manager, manager.api() as api:
        made = api.post("/v2/sandboxes", json={"templateID": "base", "metadata": protect}).json()
        tokens = {"X-Access-Token": made["envdAccessToken"], "E2B-Traffic-Access-Token": made["trafficAccessToken"]}
        kill(manager)
    for path in (folder / "state").rglob("*"):
        # What the manager may not read, it has not written.
        readable = os.access(path, os.R_OK) and path.is_file() and not path.is_symlink()
        if readable and path.stat().st_size < 1_000_000:
            assert made["envdAccessToken"].encode() not in path.read_bytes()
    for name in ("secret", "state.db", "traffic-token-key.pem"):
        assert (folder / "state" / name).stat().st_mode & 0o077 == 0
    with running_manager(folder) as manager:
        url = manager.sandbox_url(made["sandboxID"], 49983) + "/files?path=x"
        assert httpx.post(url, files={"file": b"x"}, headers=tokens).status_code == 200
        assert httpx.post(url, files={"file": b"x"}, headers=tokens | {"X-Access-Token": "no"}).status_code == 401


def test_a_sandbox_that_does_not_answer_at_the_start_is_kept(folder: Path) -> None:
    with running_manager(folder) as manager:
        silent = Sandbox.create(template="base", timeout=600, **options(manager))
        silent.files.write("kept.txt", "kept")
        (first,) = first_processes(folder)
        program = next(pid for pid in descendants(first) if process_name(pid) == "envd")
        kill(manager)
    os.kill(program, signal.SIGSTOP)
    with running_manager(folder) as manager:
        assert listed(manager) == {silent.sandbox_id: "running"}
        os.kill(program, signal.SIGCONT)
        again = Sandbox.connect(silent.sandbox_id, **options(manager))
        assert again.files.read("kept.txt") == "kept"
        assert again.kill() is True


def process_name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_a_paused_sandbox_is_still_paused_and_goes_on_where_it_was(folder: Path) -> None:
    with running_manager(folder) as manager:
        sandbox = Sandbox.create(**options(manager))
        sandbox.run_code("x = 41")
        sandbox.pause()
        kill(manager)
    with running_manager(folder) as manager:
        assert listed(manager) == {sandbox.sandbox_id: "paused"}
        again = Sandbox.connect(sandbox.sandbox_id, **options(manager))
        assert again.run_code("x + 1").text == "42"


def test_a_paused_sandbox_whose_processes_are_gone_still_has_its_files(folder: Path) -> None:
    with running_manager(folder) as manager:
        sandbox = Sandbox.create(**options(manager))
        sandbox.files.write("kept.txt", "kept")
        sandbox.commands.run(f"{MARK}02", background=True)
        wait_for(lambda: processes_with(f"{MARK}02"))
        sandbox.pause()
        kill(manager)
    for pid in first_processes(folder):
        subprocess.run(["kill", "-9", str(pid)], check=True)
    wait_for(lambda: not processes_with(f"{MARK}02"))
    with running_manager(folder) as manager:
        assert listed(manager) == {sandbox.sandbox_id: "paused"}
        again = Sandbox.connect(sandbox.sandbox_id, **options(manager))
        assert again.files.read("kept.txt") == "kept"


def test_end_times_that_passed_meanwhile_are_enforced_and_what_ended_is_dropped(folder: Path) -> None:
    with running_manager(folder) as manager:
        brief = Sandbox.create(timeout=1, **options(manager))
        resting = Sandbox.create(timeout=1, lifecycle={"on_timeout": "pause"}, **options(manager))
        ended = Sandbox.create(timeout=600, **options(manager))
        kept = Sandbox.create(timeout=600, **options(manager))
        kill(manager)
    rows = rows_of(folder)
    subprocess.run(["kill", "-9", str(rows[ended.sandbox_id].pid)], check=True)
    wait_for(lambda: time.time() > (rows[resting.sandbox_id].end_at or 0), 20, "the end times")
    with running_manager(folder) as manager:
        wait_for(lambda: listed(manager) == {resting.sandbox_id: "paused", kept.sandbox_id: "running"})
        wait_for(lambda: folders(manager) == folder_names([resting.sandbox_id, kept.sandbox_id]))
    assert brief.sandbox_id not in rows_of(folder)


def test_a_sandbox_ends_at_its_time_though_no_manager_comes_back(folder: Path) -> None:
    with running_manager(folder) as manager:
        for _ in range(2):
            sandbox = Sandbox.create(timeout=2, **options(manager))
            sandbox.commands.run(f"{MARK}03", background=True)
        wait_for(lambda: len(processes_with(f"{MARK}03")) >= 2)
        kill(manager)
    wait_for(lambda: not processes_with(f"{MARK}03"), 20, "the end of both sandboxes")


def test_an_end_time_that_was_changed_is_the_one_that_counts(folder: Path) -> None:
    with running_manager(folder) as manager:
        shortened = Sandbox.create(timeout=600, **options(manager))
        shortened.commands.run(f"{MARK}04", background=True)
        prolonged = Sandbox.create(timeout=4, **options(manager))
        first_end = time.time() + 4
        prolonged.commands.run(f"{MARK}05", background=True)
        shortened.set_timeout(2)
        prolonged.set_timeout(600)
        wait_for(lambda: processes_with(f"{MARK}04") and processes_with(f"{MARK}05"))
        kill(manager)
    wait_for(lambda: not processes_with(f"{MARK}04"), 20, "the end of the shortened sandbox")
    wait_for(lambda: time.time() > first_end + GRACE_SECONDS, 20, "the first end time of the other one")
    assert processes_with(f"{MARK}05")


def test_a_start_that_was_not_finished_leaves_nothing(folder: Path) -> None:
    with running_manager(folder) as manager:

        def create() -> None:
            with contextlib.suppress(httpx.HTTPError), manager.api() as api:
                api.post("/v2/sandboxes", json={"templateID": "code-interpreter-v1"})

        creates = [threading.Thread(target=create) for _ in range(3)]
        for thread in creates:
            thread.start()
        wait_for(lambda: len(first_processes(folder)) == 3, 20, "three launched programs")
        launched = first_processes(folder)
        kill(manager)
        for thread in creates:
            thread.join()
    store = Database(folder / "state" / "state.db")
    finished = {
        row.id for row in store.select(SandboxRow) if row.state == "running"
    }  # before the last one was launched
    store.close()
    with running_manager(folder) as manager:
        assert set(listed(manager)) == finished
        assert folders(manager) == folder_names(finished)
        for sandbox_id in finished:
            with manager.api() as api:
                api.delete(f"/sandboxes/{sandbox_id}")
        assert_ends(launched)


def test_the_parent_pipe_ends_a_program_that_nobody_has_claimed_though_no_manager_comes_back(folder: Path) -> None:
    templates = folder / "templates"
    templates.mkdir()
    # The manager claims the sandbox only when the port is open, so not before the manager is killed.
    (templates / "slow.toml").write_text('start = "true"\n[ready]\nport = 9\nseconds = 60\n')
    with running_manager(folder, "--templates", str(templates)) as manager:

        def create() -> None:
            with contextlib.suppress(httpx.HTTPError), manager.api() as api:
                api.post("/v2/sandboxes", json={"templateID": "slow"})

        client = threading.Thread(target=create)
        client.start()
        wait_for(lambda: first_processes(folder), 20, "a launched program")
        (first,) = first_processes(folder)
        kill(manager)
        client.join()
    assert rows_of(folder).popitem()[1].state == "starting"
    assert_ends([first], 20)


DIES_WHILE_IT_LAUNCHES = """
import os, signal
from kruise_agents.manager.runtime import bubblewrap
from kruise_agents.manager.runtime.bwrap import launch as bwrap_launch

launch = bubblewrap.BubblewrapRuntime.launch

def dying(*arguments, **options):
    bwrap_launch._first_process = lambda info: os.kill(os.getpid(), signal.SIGKILL)
    return launch(*arguments, **options)

bubblewrap.BubblewrapRuntime.launch = dying
"""


@pytest.mark.needs("namespaces")
def test_a_manager_that_is_killed_before_it_knows_the_first_process_leaves_none(folder: Path) -> None:
    with running_manager(folder, prelude=DIES_WHILE_IT_LAUNCHES) as manager:
        with manager.api() as api, pytest.raises(httpx.HTTPError):
            api.post("/v2/sandboxes", json={"templateID": "base"})
        wait_for(lambda: not writing_below(folder / "state" / "sandboxes"), 20, "the end of what was half-launched")


def writing_below(folder: Path) -> list[str]:
    """Return the processes whose output goes below ``folder``: sandboxes' programs, and the processes around them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "fd" / "2").readlink().is_relative_to(folder):
                found.append(process.name)
    return found


def test_a_create_that_the_end_of_the_manager_refuses_may_be_repeated(folder: Path) -> None:
    templates = folder / "templates"
    templates.mkdir()
    (templates / "slow.toml").write_text('start = "true"\n[ready]\nport = 9\nseconds = 60\n')
    with running_manager(folder, "--keep", "--templates", str(templates)) as manager, manager.api() as api:
        answers: list[httpx.Response] = []
        body = {"templateID": "slow"}
        thread = threading.Thread(target=lambda: answers.append(api.post("/v2/sandboxes", json=body)))
        thread.start()
        wait_for(lambda: folders(manager))
        manager.process.send_signal(signal.SIGTERM)
        thread.join()
        (answer,) = answers
        assert (answer.status_code, answer.headers["should-retry"]) == (503, "true"), answer.text
        assert manager.process.wait(20) == 0
        assert folders(manager) == set()


def test_keep_leaves_everything_as_it_is_and_without_it_everything_ends(folder: Path) -> None:
    with running_manager(folder, "--keep") as manager:
        sandbox = Sandbox.create(**options(manager))
        sandbox.run_code("x = 41")
        resting = Sandbox.create(**options(manager))
        resting.pause()
        manager.process.send_signal(signal.SIGTERM)
        assert manager.process.wait(20) == 0
    with running_manager(folder) as manager:
        assert listed(manager) == {sandbox.sandbox_id: "running", resting.sandbox_id: "paused"}
        assert Sandbox.connect(sandbox.sandbox_id, **options(manager)).run_code("x + 1").text == "42"
        pids = first_processes(folder)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert rows_of(folder) == {}


def test_sandboxes_of_another_runtime_are_refused_and_left_alone(folder: Path) -> None:
    with running_manager(folder) as manager:
        sandbox = Sandbox.create(**options(manager))
        kill(manager)
    rows = rows_of(folder)
    other = "process" if rows[sandbox.sandbox_id].runtime == "bubblewrap" else "bubblewrap"
    with pytest.raises(AssertionError, match="holds sandboxes of the runtime"), running_manager(folder, runtime=other):
        pass
    assert rows_of(folder) == rows


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "none"]
    if subprocess.run([*mount, str(tmp_path)], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system takes root, on a machine that permits it")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def fill(folder: Path) -> Path:
    """Fill a disk with one file, and return the file."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return filler


def test_a_full_disk_refuses_creates_and_harms_nothing_else(small_disk: Path) -> None:
    with running_manager(small_disk) as manager, manager.api() as api:
        sandbox = Sandbox.create(template="base", **options(manager))
        filler = fill(small_disk)
        answer = api.post("/v2/sandboxes", json={"templateID": "base"})
        assert answer.status_code == 507
        assert "no space left on the disk of" in answer.json()["message"]
        assert sandbox.commands.run("echo here").stdout == "here\n"
        assert set(listed(manager)) == {sandbox.sandbox_id}
        assert folders(manager) == folder_names([sandbox.sandbox_id])
        filler.unlink()
        other = Sandbox.create(template="base", **options(manager))
        kill(manager)
    with running_manager(small_disk) as manager:
        assert set(listed(manager)) == {sandbox.sandbox_id, other.sandbox_id}


def test_what_is_deleted_on_a_full_disk_makes_room(small_disk: Path) -> None:
    if available_runtime() != "bubblewrap":
        pytest.skip("the process runtime mounts no volumes")
    with running_manager(small_disk) as manager, manager.api() as api:
        sandbox = Sandbox.create(template="base", **options(manager))
        sandbox.files.write("data", b"x" * 1_000_000)
        snapshot = api.post(f"/sandboxes/{sandbox.sandbox_id}/snapshots", json={}).json()["snapshotID"]
        volume = api.post("/volumes", json={"name": "data"}).json()["volumeID"]
        (manager.state_dir / "volumes" / volume / "data").write_bytes(b"x" * 1_000_000)
        fill(small_disk)
        assert api.post("/volumes", json={"name": "other"}).status_code == 507
        assert api.delete(f"/templates/{snapshot}").status_code == 204
        fill(small_disk)
        assert api.post("/volumes", json={"name": "other"}).status_code == 507
        assert api.delete(f"/volumes/{volume}").status_code == 204
        assert api.post("/volumes", json={"name": "other"}).status_code == 201
        kill(manager)
    with running_manager(small_disk) as manager, manager.api() as api:
        assert api.get("/snapshots").json() == []
        assert [one["name"] for one in api.get("/volumes").json()] == ["other"]


def test_everything_can_be_deleted_while_the_disk_stays_full(small_disk: Path) -> None:
    with running_manager(small_disk) as manager, manager.api() as api:
        sandbox = Sandbox.create(template="base", **options(manager))
        snapshots = [api.post(f"/sandboxes/{sandbox.sandbox_id}/snapshots", json={}).json() for _ in range(3)]
        volumes = [api.post("/volumes", json={"name": f"v{number}"}).json() for number in range(3)]
        keys = [api.post("/api-keys", json={"name": f"k{number}"}).json() for number in range(3)]
        secrets = [api.post("/secrets", json={"name": f"s{number}", "value": "v"}).json() for number in range(3)]
        owned = api.post("/volumes", json={"name": "owned"}, headers={"X-API-Key": keys[0]["key"]}).json()
        paths = [f"/templates/{one['snapshotID']}" for one in snapshots]
        paths += [f"/volumes/{one['volumeID']}" for one in volumes]
        paths += [f"/api-keys/{one['id']}" for one in keys]
        paths += [f"/secrets/{one['secretID']}" for one in secrets]
        for path in paths:
            fill(small_disk)
            assert api.post("/volumes", json={"name": "other"}).status_code == 507
            fill(small_disk)
            assert api.delete(path).status_code == 204, path
        for one in keys:
            assert api.get("/v2/sandboxes", headers={"X-API-Key": one["key"]}).status_code == 401
        kill(manager)
    with running_manager(small_disk) as manager, manager.api() as api:
        assert api.get("/snapshots").json() == []
        assert [one["volumeID"] for one in api.get("/volumes").json()] == [owned["volumeID"]]
        assert [one["name"] for one in api.get("/api-keys").json()] == ["admin"]
        assert not (manager.state_dir / "lost").exists()


TAKE_ALL = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
while True:
    try:
        os.write(file, b"x" * 4096)
    except OSError:
        pass
"""


def test_keys_can_be_deleted_while_a_neighbour_takes_every_byte(small_disk: Path) -> None:
    with running_manager(small_disk) as manager, manager.api() as api:
        keys = [api.post("/api-keys", json={"name": f"k{number}"}).json()["id"] for number in range(40)]
        neighbour = subprocess.Popen([sys.executable, "-c", TAKE_ALL, str(small_disk / "taken")])
        try:
            wait_for(lambda: os.statvfs(small_disk).f_bavail == 0, 30, "a full disk")
            assert [api.delete(f"/api-keys/{key}").status_code for key in keys] == [204] * len(keys)
            assert api.post("/api-keys", json={"name": "another"}).status_code == 507
        finally:
            neighbour.kill()
            neighbour.wait()


def test_a_manager_starts_again_on_a_full_disk(small_disk: Path) -> None:
    with running_manager(small_disk) as manager, manager.api() as api:
        key = api.post("/api-keys", json={"name": "k"}).json()
        fill(small_disk)
        kill(manager)
    fill(small_disk)
    with running_manager(small_disk) as manager, manager.api() as api:
        assert api.delete(f"/api-keys/{key['id']}").status_code == 204
        assert api.get("/v2/sandboxes", headers={"X-API-Key": key["key"]}).status_code == 401


def test_a_start_on_a_full_disk_says_so(small_disk: Path) -> None:
    fill(small_disk)
    command = serve_command("--port", "0", "--state-dir", str(small_disk / "state"), "--runtime", available_runtime())
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("remove something there, or end sandboxes"), done.stderr


def rows_of(folder: Path) -> dict[str, Any]:
    store = Database(folder / "state" / "state.db")
    try:
        return {row.id: row for row in store.select(SandboxRow)}
    finally:
        store.close()


def first_processes(folder: Path) -> list[int]:
    return [row.pid for row in rows_of(folder).values() if row.pid is not None]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_manager_that_is_killed_again_and_again_loses_nothing_that_it_had_answered_for(
    folder: Path, port: int, seed: int
) -> None:
    dice = random.Random(seed)
    busy = None
    for _ in range(4):
        with running_manager(folder, "--port", str(port)) as manager:
            busy = busy or Busy(manager, seed)
            busy.check(manager)
            assert_only_what_is_listed(manager)
            busy.start()
            busy.wait_for_answers(dice.randrange(3, 12))
            time.sleep(dice.uniform(0, 0.3))  # any moment will do, also in the middle of something
            kill(manager)
            busy.stop()
    assert busy is not None
    with running_manager(folder, "--port", str(port)) as manager:
        busy.check(manager)
        assert busy.known, busy.failures
        assert_only_what_is_listed(manager)
        kill_everything(manager)
        assert processes_with(BACKGROUND) == []
        assert_only_what_is_listed(manager)
        assert folders(manager) == set()
