"""The resources of the machine that a manager and its sandboxes use, to compare before and after many sandboxes."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import httpx
from e2b_code_interpreter import Sandbox

from .kills import folders
from .managers import RunningManager, children, descendants, wait_for

_QUIET_SECONDS = 2.0
_LOOKS = 20
_MEMORY_SLACK_KB = 8 * 1024
"""Memory that a Python process may keep after it has freed it."""


@dataclass(frozen=True)
class Remains:
    """The processes, files, folders and memory of a manager at one moment."""

    processes: int
    """Processes below the manager."""
    zombies: int
    descriptors: int
    sockets: int
    """Sockets that are open in the manager, without the connections that clients keep."""
    mounts: int
    """Mounts of the machine, as the manager sees them."""
    folders: int
    """Folders of sandboxes in the state folder."""
    memory_kb: int
    """Resident memory of the manager itself."""
    zygote_kb: int
    """Resident memory of the zygote, the process that forks sandboxes; 0 without a zygote."""

    @classmethod
    def of(cls, manager: RunningManager) -> Remains:
        """Return the figures of a manager at this moment."""
        pid = manager.process.pid
        below = descendants(pid)
        clients = _connections(manager)
        opened = [target for path in Path(f"/proc/{pid}/fd").iterdir() if (target := _link(path)) not in clients]
        return cls(
            processes=len(below),
            zombies=sum("Z" in _status(process, "State") for process in below),
            descriptors=len(opened),
            sockets=sum(target.startswith("socket:") for target in opened),
            mounts=len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()),
            folders=len(folders(manager)),
            memory_kb=_memory_kb(pid),
            zygote_kb=sum(_memory_kb(child) for child in children(pid) if _is_zygote(child)),
        )

    def more_than(self, before: Remains) -> list[str]:
        """Return a line for each figure that is higher than ``before``. Memory may be up to 8 MiB higher."""
        lines = []
        for field in fields(self):
            was, is_ = getattr(before, field.name), getattr(self, field.name)
            if is_ > was + (_MEMORY_SLACK_KB if field.name.endswith("_kb") else 0):
                lines.append(f"{field.name}: {is_} after {was}")
        return lines


def cycle(manager: RunningManager) -> None:
    """Make a sandbox, run code in it, and kill it."""
    sandbox = Sandbox.create(domain=manager.domain, api_key=manager.api_key, request_timeout=120)
    try:
        assert sandbox.run_code("1+1").text == "2"
    finally:
        assert sandbox.kill()


def settled(manager: RunningManager, pool: int) -> Remains:
    """Wait for a full pool without other sandboxes, and return the figures at that moment."""

    def quiet() -> bool:
        page = httpx.get(f"http://{manager.domain}/metrics", timeout=60).text
        sizes = re.findall(r"^kruise_agents_pool_size\{.*\} (\d+)$", page, re.M)
        now = Remains.of(manager)
        return sum(map(int, sizes)) == pool and now.folders == pool

    wait_for(quiet, 120, "a full pool and nothing else")
    now = Remains.of(manager)
    for _ in range(_LOOKS):  # the manager brings its database onto the disk in a quiet moment, and looks into /proc
        time.sleep(_QUIET_SECONDS)
        before, now = now, Remains.of(manager)
        if replace(before, memory_kb=now.memory_kb, zygote_kb=now.zygote_kb) == now:
            break
    return now


def _connections(manager: RunningManager) -> set[str]:
    """Return the manager's ends of connections to the manager's port, by the names that ``/proc`` gives open files."""
    lines: list[str] = []
    for table in ("tcp", "tcp6"):
        lines += Path(f"/proc/{manager.process.pid}/net/{table}").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    established, port = "01", f":{manager.port:04X}"
    return {f"socket:[{row[9]}]" for row in rows if row[3] == established and row[1].endswith(port)}


def _is_zygote(pid: int) -> bool:
    """Return True if a child of a manager is the zygote. The zygote's own children have other command lines."""
    with contextlib.suppress(OSError):
        return b"/sandbox/zygote/" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _memory_kb(pid: int) -> int:
    return int(re.sub(r"\D", "", _status(pid, "VmRSS")) or 0)


def _link(path: Path) -> str:
    with contextlib.suppress(OSError):
        return str(path.readlink())
    return ""


def _status(pid: int, name: str) -> str:
    with contextlib.suppress(OSError):
        match = re.search(rf"^{name}:\s+(.*)$", Path(f"/proc/{pid}/status").read_text(), re.M)
        return match[1] if match else ""
    return ""
