"""A copy of the state folder, made while the manager works, is one that a manager can start on."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.manager import backup
from kruise_agents.manager.runtime.files.copying import Copier
from kruise_agents.manager.runtime.files.trees import IncompleteCopyError
from kruise_agents.manager.state.database import Database
from kruise_agents.manager.state.tables import VolumeRow
from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, running_manager

pytestmark = pytest.mark.live
CONTENT = "0123456789" * 10_000
DEEP = 'import os; [(os.mkdir("d"), os.chdir("d")) for _ in range(1500)]'


@pytest.fixture(autouse=True)
def patched() -> Iterator[None]:
    with patch_e2b(False):
        yield


def options(manager: RunningManager) -> dict[str, Any]:
    return {"domain": manager.domain, "api_key": manager.api_key}


def back_up(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kruise_agents.manager.backup", str(source), str(target)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def snapshot(manager: RunningManager, sandbox: Sandbox) -> str:
    with manager.api() as api:
        made = api.post(f"/sandboxes/{sandbox.sandbox_id}/snapshots", json={}).raise_for_status().json()
    return str(made["snapshotID"])


class Busy:
    """A thread that creates and removes sandboxes and snapshots, and pauses and resumes a sandbox, during the block."""

    def __init__(self, manager: RunningManager, source: Sandbox) -> None:
        self._manager = manager
        self._source = source
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(work,)) for work in (self._snapshot, self._pause)]
        self._failures: list[BaseException] = []
        self.rounds = 0

    def __enter__(self) -> Busy:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self._failures == []

    def _work(self, work: Any) -> None:
        try:
            while not self._stop.is_set():
                work()
                self.rounds += 1
        except BaseException as error:
            self._failures.append(error)

    def _snapshot(self) -> None:
        made = snapshot(self._manager, self._source)
        with self._manager.api() as api:
            api.delete(f"/templates/{made}").raise_for_status()

    def _pause(self) -> None:
        with Sandbox.create("base", **options(self._manager)) as sandbox:
            sandbox.files.write("changes", CONTENT)
            sandbox.pause()
            sandbox.connect()


def test_a_manager_starts_on_a_copy_that_was_made_while_the_first_one_works(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with running_manager(here) as manager:
        running = Sandbox.create("base", metadata={"is": "running"}, **options(manager))
        paused = Sandbox.create("base", metadata={"is": "paused"}, **options(manager))
        for sandbox in (running, paused):
            sandbox.files.write("kept.txt", CONTENT)
        kept = snapshot(manager, running)
        paused.pause()
        with manager.api() as api:
            made = api.post("/api-keys", json={"name": "of a person", "teamName": "red"}).raise_for_status().json()
        with Busy(manager, running) as busy:
            copies = 0
            while copies < 3 or busy.rounds < 4:
                copies += 1
                done = back_up(manager.state_dir, there / f"copy-{copies}")
                assert (done.returncode, done.stderr) == (0, "")
        # It is brought back in the same way.
        assert back_up(there / f"copy-{copies}", there / "state").returncode == 0
        with running_manager(there, "--keep") as other, other.api() as api:
            assert "running" not in {one["metadata"].get("is") for one in api.get("/v2/sandboxes").json()}
        # The first manager and all that is its own have seen nothing of this.
        assert running.commands.run("cat kept.txt").stdout == CONTENT
        paused.connect()
        assert paused.files.read("kept.txt") == CONTENT
    with running_manager(there) as other, other.api() as api:
        listed = {one["metadata"].get("is"): one["state"] for one in api.get("/v2/sandboxes").json()}
        assert listed["paused"] == "paused"
        again = Sandbox.connect(paused.sandbox_id, **options(other))
        assert again.files.read("kept.txt") == CONTENT
        snapshots = {one["snapshotID"] for one in api.get("/snapshots").json()}
        assert kept in snapshots
        for template in snapshots:
            with Sandbox.create(template, **options(other)) as sandbox:
                assert sandbox.files.read("kept.txt") == CONTENT
        assert api.get("/v2/sandboxes", headers={"X-API-Key": made["key"]}).json() == []
        assert api.get("/v2/sandboxes", headers={"X-API-Key": "another"}).status_code == 401


def test_the_copy_can_be_read_by_nobody_else(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        assert back_up(manager.state_dir, tmp_path / "copy").returncode == 0
    assert (tmp_path / "copy").stat().st_mode & 0o077 == 0
    for name in ("secret", "state.db"):
        assert (tmp_path / "copy" / name).stat().st_mode & 0o077 == 0


@pytest.mark.needs("namespaces")  # the process runtime has no volumes
def test_volumes_are_in_the_copy_with_the_owners_of_files(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with running_manager(tmp_path) as manager, manager.api() as api:
        api.post("/volumes", json={"name": "shared"}).raise_for_status()
        with Sandbox.create("base", volume_mounts={"/mnt/v": "shared"}, **options(manager)) as sandbox:
            sandbox.commands.run("echo kept > /mnt/v/a.txt")
            looks = "cat /mnt/v/a.txt; stat -c '%U %G %a' /mnt/v /mnt/v/a.txt"
            seen = sandbox.commands.run(looks).stdout
            assert seen.startswith("kept\n")
            done = back_up(manager.state_dir, tmp_path / "there" / "state")
            assert (done.returncode, done.stderr) == (0, "")
    with running_manager(tmp_path / "there") as manager, manager.api() as api:
        assert [one["name"] for one in api.get("/volumes").json()] == ["shared"]
        with Sandbox.create("base", volume_mounts={"/mnt/v": "shared"}, **options(manager)) as sandbox:
            assert sandbox.commands.run(looks).stdout == seen


def test_a_copy_without_a_manager_is_one_too_and_neither_folder_is_guessed(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        pass
    assert back_up(manager.state_dir, tmp_path / "copy").returncode == 0
    again = back_up(manager.state_dir, tmp_path / "copy")
    assert (again.returncode, again.stderr) == (1, f"backup: {tmp_path}/copy exists; name a folder that does not\n")
    wrong = back_up(tmp_path, tmp_path / "other")
    assert wrong.returncode == 1
    assert "is no state folder" in wrong.stderr
    assert not (tmp_path / "other").exists()


def test_a_folder_that_is_moved_meanwhile_is_listed_and_the_rest_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code in a sandbox can move folders of a mounted volume at any time."""
    state, copy = tmp_path / "state", tmp_path / "copy"
    for name in ("v1/outer/inner", "v2"):
        (state / "volumes" / name).mkdir(parents=True)
        (state / "volumes" / name / "file").touch()
    with contextlib.closing(Database(state / "state.db")) as store:
        for number in (1, 2):
            store.save(VolumeRow(f"v{number}", "owner", f"name {number}", 1.0))
    copy_one = Copier._copy_one

    def copy_and_move(copier: Copier, name: str, found: os.stat_result) -> None:
        copy_one(copier, name, found)
        inner = state / "volumes" / "v1" / "outer" / "inner"
        if inner.exists():
            inner.rename(state / "volumes" / "v1" / "moved")
            inner.parent.rename(state / "volumes" / "v1" / "moved too")

    monkeypatch.setattr(Copier, "_copy_one", copy_and_move)
    monkeypatch.setattr(backup, "_owners", lambda: None)  # as for root
    with pytest.raises(IncompleteCopyError, match=r"volumes/v1: 'outer/\.': the folder was moved during the copy$"):
        backup.back_up(state, copy)
    assert (copy / "volumes" / "v2" / "file").exists()
    with contextlib.closing(Database(copy / "state.db", may_be_new=False)) as store:
        assert [row.id for row in store.select(VolumeRow)] == ["v1", "v2"]


def test_what_cannot_be_copied_is_listed_and_a_manager_starts_with_the_rest(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with running_manager(tmp_path) as manager:
        sandbox = Sandbox.create("base", **options(manager))
        sandbox.commands.run(f"echo kept > kept.txt; touch gone; python -c '{DEEP}'")
        sandbox.pause(keep_memory=False)
        program = "import errno, os\nfrom kruise_agents.manager import backup\n"
        program += "from kruise_agents.manager.runtime.files import copying\n"
        program += "real = copying.Copier._copy_one\n"
        program += "def copy_one(copier, name, found):\n"
        program += "    if name == 'gone': raise OSError(errno.EIO, 'Input/output error')\n"
        program += "    real(copier, name, found)\n"
        program += "copying.Copier._copy_one = copy_one\nbackup._owners = lambda: None\n"
        program += "backup.main()"
        command = [sys.executable, "-c", program, str(manager.state_dir), str(tmp_path / "there" / "state")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 4
        assert re.search(r"^  sandboxes/\w+: '\S*gone': Input/output error$", done.stderr, re.M), done.stderr
        assert done.stderr.startswith("backup: everything was copied but for these files:\n")
        if os.geteuid() == 0:  # another user's copy has other owners
            with running_manager(tmp_path / "there") as other:
                again = Sandbox.connect(sandbox.sandbox_id, **options(other))
                assert (
                    again.commands.run("cat kept.txt; find . -name d | wc -l; ls").stdout == "kept\n1500\nd\nkept.txt\n"
                )
                again.kill()
