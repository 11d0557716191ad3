"""The freezer of control groups, with which the kernel stops a whole sandbox at once, without signals.

The freezer needs cgroup v2, and the right to make groups below the manager's own group. Root usually has that right,
as has a user to whom systemd has delegated a group. Version 1 is not used: its frozen processes cannot be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

GROUP_PREFIX = "kruise-agents-"  # the beginning of the name of every sandbox's group, of any manager
_FREEZE_SECONDS = 5.0
_PROBE_SECONDS = 1.0
_LOOK_SECONDS = 0.001
_TRIES = 3
# The errors of opening a file of a group, and of writing to the file, after another manager has removed the group.
_REMOVED = (errno.ENOENT, errno.ENODEV)


@dataclass(frozen=True, slots=True)
class Freezer:
    """The control group in which the groups of sandboxes are made."""

    parent: Path

    @classmethod
    def find(cls) -> Self | None:
        """Return a freezer, or None if freezing does not work here. Remove the empty groups of ended sandboxes."""
        mount = _unified_mount()
        if mount is None:
            return None
        freezer = cls(mount / _path_of("self").lstrip("/"))
        try:
            freezer._try()
        except OSError:
            return None
        # Sandboxes that ended while no manager ran have left groups. The kernel removes no group that has processes.
        for group in freezer.parent.glob(f"{GROUP_PREFIX}[0-9a-f]*"):
            with contextlib.suppress(OSError):
                group.rmdir()
        return freezer

    def put(self, name: str, pid: int) -> None:
        """Put a process, and all processes that it starts from then on, into the group of the sandbox ``name``."""
        group = self.parent / f"{GROUP_PREFIX}{name}"
        for tries_left in reversed(range(_TRIES)):
            group.mkdir(exist_ok=True)
            try:
                (group / "cgroup.procs").write_text(str(pid), encoding="ascii")
            except OSError as error:
                if error.errno not in _REMOVED or not tries_left:
                    raise
            else:
                return

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.parent / f"{GROUP_PREFIX}{name}").rmdir()

    def _try(self) -> None:
        with subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) as process:
            try:
                self.put(f"probe-{process.pid}", process.pid)
                group = group_of(process.pid)
                if group is None:
                    raise OSError("the process is not in its group")
                (group / "cgroup.freeze").write_text("1", encoding="ascii")
                deadline = time.monotonic() + _PROBE_SECONDS
                while not _is_frozen(group):
                    if time.monotonic() > deadline:
                        raise OSError("the group does not freeze")
                    time.sleep(_LOOK_SECONDS)
            finally:
                process.kill()
                process.wait()
                self.remove(f"probe-{process.pid}")


def group_of(pid: int) -> Path | None:
    """Return the control group that a manager made for the sandbox of a process, or None if there is no such group."""
    path = _path_of(str(pid))
    mount = _unified_mount()
    return mount / path.lstrip("/") if mount is not None and Path(path).name.startswith(GROUP_PREFIX) else None


async def freeze(group: Path) -> None:
    """Stop every process in a group. If a process does not stop in 5 seconds, let all run again and raise OSError."""
    (group / "cgroup.freeze").write_text("1", encoding="ascii")
    deadline = time.monotonic() + _FREEZE_SECONDS
    while not _is_frozen(group):
        if time.monotonic() > deadline:
            thaw(group)
            raise OSError(f"its processes did not stop within {_FREEZE_SECONDS} seconds")
        await asyncio.sleep(_LOOK_SECONDS)


def thaw(group: Path) -> None:
    """End the freeze of a group. Raises OSError if the group is gone."""
    (group / "cgroup.freeze").write_text("0", encoding="ascii")


def _is_frozen(group: Path) -> bool:
    return "frozen 1" in (group / "cgroup.events").read_text(encoding="ascii")


def _unified_mount() -> Path | None:
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, folder, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(folder)
    return None


def _path_of(pid: str) -> str:
    # Return the path of the process's cgroup v2 group; empty if there is none, or the process has ended.
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line[3:] for line in lines if line.startswith("0::")), "")
