"""IDs of sandboxes stay out of all that every local user can read: command lines, mounts, control groups, sockets."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.managers import RunningManager, running_manager, wait_for

pytestmark = pytest.mark.live
READ_BY_ALL = ("cmdline", "comm", "status", "cgroup", "mountinfo", "mounts", "mountstats", "net/unix")
"""Files below ``/proc/<pid>`` that every user can read. Other files, such as ``environ``, only the owner can."""
RUNTIMES = ["process", pytest.param("bubblewrap", marks=pytest.mark.needs("namespaces"))]


class Onlooker:
    """A reader of what every local user can read of all processes, over and over until the end of the block."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.rounds = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Onlooker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def look_twice(self) -> None:
        before = self.rounds
        wait_for(lambda: self.rounds > before + 1, 60, "a whole look")

    def _look(self) -> None:
        while not self._done.is_set():
            for pid in [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]:
                for name in READ_BY_ALL:
                    with contextlib.suppress(OSError):
                        text = Path(f"/proc/{pid}/{name}").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        self.seen |= set(text.splitlines())
            self.rounds += 1


def groups() -> Iterator[str]:
    """Return the paths of the control groups of this machine that any user can list."""
    for folder, _, _ in os.walk("/sys/fs/cgroup"):
        yield folder


@pytest.fixture(params=RUNTIMES)
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningManager]:
    with running_manager(tmp_path, runtime=request.param, pool=1) as running:
        yield running


def test_no_local_user_can_read_the_id_of_a_sandbox(manager: RunningManager) -> None:
    with Onlooker() as onlooker, manager.api() as api:
        new = {"templateID": "code-interpreter-v1"}
        ids = [api.post("/sandboxes", json=new).raise_for_status().json()["sandboxID"]]
        api.post(f"/sandboxes/{ids[0]}/snapshots", json={}).raise_for_status()
        ids.append(api.post("/sandboxes", json=new).raise_for_status().json()["sandboxID"])
        onlooker.look_twice()
        found_groups = list(groups())
        api.post(f"/sandboxes/{ids[0]}/pause", json={"memory": False}).raise_for_status()
        api.post(f"/sandboxes/{ids[0]}/connect", json={"timeout": 60}).raise_for_status()
        onlooker.look_twice()
        for sandbox_id in ids:
            api.delete(f"/sandboxes/{sandbox_id}").raise_for_status()
    told = [line for line in [*onlooker.seen, *found_groups] if any(sandbox_id in line for sandbox_id in ids)]
    assert told == []
    assert any(str(manager.state_dir) in line for line in onlooker.seen)  # the look was at the right processes


def test_the_folder_of_a_sandbox_does_not_tell_its_id(manager: RunningManager) -> None:
    with manager.api() as api:
        made = api.post("/sandboxes", json={"templateID": "base"}).raise_for_status().json()["sandboxID"]
        assert manager.folder_of(made).is_dir()
        assert not [path for path in manager.state_dir.rglob("*") if made in path.name]


@pytest.mark.needs("namespaces")
def test_a_folder_that_an_earlier_release_named_by_the_id_is_taken_over(tmp_path: Path) -> None:
    with running_manager(tmp_path, "--keep") as manager, manager.api() as api:
        ids = [api.post("/sandboxes", json={"templateID": "base"}).json()["sandboxID"] for _ in range(2)]
        api.post(f"/sandboxes/{ids[1]}/pause", json={"memory": False}).raise_for_status()
        folders = [manager.folder_of(made) for made in ids]
    for made, folder in zip(ids, folders, strict=True):
        folder.rename(folder.with_name(made))
    with running_manager(tmp_path) as manager, manager.api() as api:
        assert [manager.folder_of(made) for made in ids] == folders
        assert all(folder.is_dir() for folder in folders)
        assert {one["sandboxID"] for one in api.get("/v2/sandboxes").json()} == set(ids)
        api.post(f"/sandboxes/{ids[1]}/connect", json={"timeout": 60}).raise_for_status()
        assert api.get(f"/sandboxes/{ids[0]}").json()["state"] == "running"
