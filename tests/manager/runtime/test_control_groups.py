"""Limits by control groups, on a tree of files that looks like the kernel's; few machines give tests a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kruise_agents.manager.runtime import MIB, Limits
from kruise_agents.manager.runtime.limits.cgroups import ControlGroups, NotDelegatedError, find_groups

FILES = (
    *("cgroup.controllers", "cgroup.kill", "cgroup.procs", "cgroup.subtree_control", "cgroup.type", "cpu.max"),
    *("memory.max", "memory.oom.group", "memory.swap.max", "pids.max"),
)
LIMITS = Limits(memory=512 * MIB, processes=100, cpus=2, disk=MIB)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the files in which the kernel describes a manager that is alone in a control group of its own."""
    make = Path.mkdir

    def mkdir(folder: Path, *arguments: object, **options: object) -> None:
        make(folder, *arguments, **options)  # type: ignore[arg-type]  # the call's options, passed on
        if folder.is_relative_to(tmp_path / "tree"):
            for name in FILES:
                (folder / name).touch()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rmdir", lambda folder: shutil.rmtree(folder))
    group = tmp_path / "tree" / "user.slice" / "run-1.scope"
    group.mkdir(parents=True)
    (group / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n")
    folder = tmp_path / "proc"
    folder.mkdir()
    (folder / "mountinfo").write_text(
        "30 23 0:27 / /sys rw - sysfs sysfs rw\n"
        f"31 30 0:28 / {tmp_path}/tree rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    (folder / "cgroup").write_text("0::/user.slice/run-1.scope\n")
    return folder


@pytest.fixture
def group(tmp_path: Path) -> Path:
    return tmp_path / "tree" / "user.slice" / "run-1.scope"


def test_the_manager_makes_room_for_groups_with_limits(proc: Path, group: Path) -> None:
    assert find_groups(proc).name == "cgroup v2"
    assert (group / "manager" / "cgroup.procs").read_text() == str(os.getpid())
    assert (group / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"


@pytest.mark.live
def test_a_sandbox_gets_a_group_with_its_limits_and_runs_in_it(proc: Path, group: Path) -> None:
    groups = find_groups(proc)
    with groups.limited("isandbox", LIMITS) as before:
        pid = subprocess.run([*before, "sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout
    own = group / "kruise-agents-isandbox"
    assert (own / "cgroup.procs").read_text() == pid
    assert {name: (own / name).read_text() for name in FILES if (own / name).read_text()} == {
        "cgroup.procs": pid,
        "cpu.max": "200000 100000",
        "memory.max": str(512 * MIB),
        "memory.oom.group": "0",
        "memory.swap.max": "0",
        "pids.max": "100",
    }
    groups.release("isandbox")
    assert not own.exists()
    groups.release("isandbox")


def test_a_group_that_cannot_be_set_up_leaves_nothing(proc: Path, group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = find_groups(proc)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", _refuse)
        with pytest.raises(OSError, match="Invalid argument"), groups.limited("isandbox", LIMITS):
            pass
    assert not (group / "kruise-agents-isandbox").exists()


def _refuse(_file: Path, _text: str, encoding: str) -> int:
    raise OSError(22, "Invalid argument")


def test_where_control_groups_do_it_memory_is_not_measured() -> None:
    groups = ControlGroups(Path("/nonexistent"))
    assert groups.holds_memory
    assert groups.process_limits(LIMITS).file == LIMITS.disk


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("group", "cgroup.controllers", "cpu pids\n"), "does not have memory"),
        (("group", "cgroup.procs", "1\n2\n"), "has other processes beside the manager"),
        (("proc", "mountinfo", "30 23 0:27 / /sys rw - sysfs sysfs rw\n"), "no control groups of version 2"),
        (("proc", "cgroup", "4:memory:/\n"), "no control groups of version 2"),
    ],
)
def test_why_they_are_not_used_is_told(proc: Path, group: Path, change: tuple[str, str, str], reason: str) -> None:
    where, name, text = change
    ({"group": group, "proc": proc}[where] / name).write_text(text)
    with pytest.raises(NotDelegatedError, match=reason):
        find_groups(proc)


def test_the_root_of_all_groups_is_not_divided(proc: Path, group: Path) -> None:
    (group / "cgroup.type").unlink()
    with pytest.raises(NotDelegatedError, match="root of all control groups"):
        find_groups(proc)


def test_in_a_container_the_tree_begins_at_its_own_group(proc: Path, group: Path, tmp_path: Path) -> None:
    (proc / "mountinfo").write_text(f"31 30 0:28 /docker/x {group} rw - cgroup2 cgroup rw\n")
    (proc / "cgroup").write_text("0::/docker/x\n")
    find_groups(proc)
    assert (group / "manager").is_dir()
