"""The route ``GET /metrics``: the resources that the sandbox uses.

Source of the names: envd 0.6.13, whose figures describe a virtual machine. The figures here describe the sandbox's
processes and files alone:

- ``cpu_count``: processors that the sandbox may run on
- ``cpu_used_pct``: use of these processors in percent, 0 to 100, since the last request for metrics or, at the first
  request, since the start of envd; the time of a process that has ended counts only if its parent waited for it
- ``mem_total``: the machine's memory, or the sandbox's memory limit if that is less
- ``mem_used``: anonymous and shared memory; a shared page is usually divided among the processes that share it
- ``mem_cache``: mapped pages of files (programs and libraries), divided in the same way
- ``disk_total``: the size of the sandbox's file systems, or the sandbox's disk limit if that is less
- ``disk_used``: bytes on disk of the sandbox's own files, including the files that it started with
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .disk_space import DiskUsage

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1024 * 1024
_ROLLUP = re.compile(r"^(Pss|Pss_File):\s+(\d+) kB$", re.MULTILINE)
_MEM_TOTAL = re.compile(r"^MemTotal:\s+(\d+) kB$", re.MULTILINE)


class Metrics:
    """The measurements of one sandbox, whose files are below ``folders``. None of the folders may lie in another.

    ``root`` is the PID of the sandbox's first process, which adopts orphans; by default, the parent of this process.
    ``memory`` and ``disk`` are the sandbox's limits in bytes, or None for no limit.
    """

    def __init__(
        self, folders: Sequence[Path], root: int | None = None, memory: int | None = None, disk: int | None = None
    ) -> None:
        self._memory_limit = memory
        self._disk_limit = disk
        self._root = os.getppid() if root is None else root
        self._disk = DiskUsage(folders)
        self._last = (time.monotonic(), _processor_seconds(_family(self._root)))

    def measure(self) -> dict[str, Any]:
        """Return the body of ``GET /metrics``. Sizes are in bytes, or in MiB if the name ends in ``_mib``."""
        family = _family(self._root)
        cores = len(os.sched_getaffinity(0))
        used, cache = _memory(process.pid for process in family)
        total = min(_total_memory(), self._memory_limit or _total_memory())
        disk = self._disk.size()
        return {
            "ts": int(time.time()),
            "cpu_count": cores,
            "cpu_used_pct": self._share(_processor_seconds(family), cores),
            "mem_total_mib": total // _MIB,
            "mem_used_mib": used // _MIB,
            "mem_total": total,
            "mem_used": used,
            "mem_cache": cache,
            "disk_used": self._disk.used(),
            "disk_total": min(disk, self._disk_limit or disk),
        }

    def _share(self, seconds: float, cores: int) -> float:
        now = time.monotonic()
        (then, before), self._last = self._last, (now, seconds)
        # The sum falls when a process ends and no process waits for it. The kernel counts in whole ticks, so that the
        # use in a short time may seem to exceed the processors.
        share = (seconds - before) / (max(now - then, 1e-3) * cores)
        return round(100 * min(max(0.0, share), 1.0), 2)


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    ticks: int  # of the process and of the descendants that it has waited for


def _family(root: int) -> list[_Process]:
    processes = {}
    children = defaultdict(list)
    for folder in os.scandir("/proc"):
        if not folder.name.isdigit():
            continue
        try:
            facts = Path(folder.path, "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # the process has just ended
        pid = int(folder.name)
        processes[pid] = _Process(pid, sum(map(int, facts[11:15])))
        children[int(facts[1])].append(pid)
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        if pid in processes:
            found.append(processes[pid])
        waiting += children[pid]
    return found


def _processor_seconds(family: Iterable[_Process]) -> float:
    return sum(process.ticks for process in family) / _TICK


def _memory(pids: Iterable[int]) -> tuple[int, int]:
    used = cache = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # the process has just ended
            own, files = _memory_of(Path("/proc", str(pid)))
            used += own
            cache += files
    return used, cache


def _memory_of(folder: Path) -> tuple[int, int]:
    """Return the bytes of a process's anonymous and shared memory, and the bytes of its mapped files."""
    try:
        shares = {
            name: int(kilobytes) * 1024 for name, kilobytes in _ROLLUP.findall((folder / "smaps_rollup").read_text())
        }
        return shares["Pss"] - shares["Pss_File"], shares["Pss_File"]
    except (OSError, KeyError):
        # The kernel lacks the file or refuses to read it. Whole pages are counted instead, and shared memory as files.
        _, resident, shared, *_ = map(int, (folder / "statm").read_text().split())
        return (resident - shared) * _PAGE, shared * _PAGE


def _total_memory() -> int:
    found = _MEM_TOTAL.search(Path("/proc/meminfo").read_text())
    assert found is not None
    return int(found[1]) * 1024
