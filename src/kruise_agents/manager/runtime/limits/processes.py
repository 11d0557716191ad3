"""What a sandbox takes of the machine, measured from outside, where nothing in it can disturb the measuring."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_BLOCK = 512
_MOST_FILES = 50_000
"""How many open files of a sandbox are looked at, so that nobody's look takes long."""
_SHARES = re.compile(r"^(Pss_Anon|Pss_Shmem):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Process:
    """One process at the moment of the look."""

    pid: int
    parent: int
    threads: int
    ticks: int
    """Processor time, in clock ticks."""
    started: int
    """In clock ticks since the start of the machine; with ``pid`` it names the process for ever."""
    resident: int
    """Bytes of memory, those shared with others included."""


class Processes:
    """All processes of the machine, by descent."""

    def __init__(self, found: Iterable[Process]) -> None:
        self._by_pid: dict[int, Process] = {}
        self._children: defaultdict[int, list[int]] = defaultdict(list)
        for process in found:
            self._by_pid[process.pid] = process
            self._children[process.parent].append(process.pid)

    @classmethod
    def now(cls) -> Processes:
        """Those of this moment."""
        return cls(_all())

    def family(self, root: int) -> list[Process]:
        """A process and all that descend from it; in a pid namespace that is everything in it."""
        found, waiting = [], [root]
        while waiting:
            pid = waiting.pop()
            if pid in self._by_pid:
                found.append(self._by_pid[pid])
                waiting += self._children[pid]
        return found


@dataclass(slots=True)
class Memory:
    """Bytes of memory that a process has for itself; of what it shares with others, its part."""

    anonymous: int
    shared: int
    """Not of files on a disk."""


def memory_of(process: Process) -> Memory:
    """What a process has mapped."""
    folder = Path("/proc", str(process.pid))
    try:
        shares = {name: int(size) * 1024 for name, size in _SHARES.findall((folder / "smaps_rollup").read_text())}
        return Memory(shares["Pss_Anon"], shares["Pss_Shmem"])
    except (OSError, KeyError):
        return Memory(process.resident, 0)  # it may not be looked into, or has just ended


@dataclass(slots=True)
class Hidden:
    """Bytes of files without a name, which are there as long as they are open."""

    in_memory: dict[int, int] = field(default_factory=dict)
    """By the process that has them open, or the first of several."""
    on_disk: int = 0


def hidden_in(processes: Iterable[Process], device: int) -> Hidden:
    """What the processes hold in files without a name, among the first :data:`_MOST_FILES` that they have open.

    Parameters:
        device: the number of the sandbox's disk; a file that is on no disk is in memory.
    """
    found = Hidden()
    seen = set()
    opened = ((process.pid, facts) for process in processes for facts in _open_files(process.pid))
    for pid, facts in islice(opened, _MOST_FILES):
        if facts.st_nlink or not stat.S_ISREG(facts.st_mode) or (facts.st_dev, facts.st_ino) in seen:
            continue
        seen.add((facts.st_dev, facts.st_ino))
        size = facts.st_blocks * _BLOCK
        if facts.st_dev == device:
            found.on_disk += size
        else:
            found.in_memory[pid] = found.in_memory.get(pid, 0) + size
    return found


def shared_memory_files(root: int) -> int:
    """Bytes of files in the sandbox's ``/dev/shm``, which are memory."""
    with contextlib.suppress(OSError):
        facts = os.statvfs(f"/proc/{root}/root/dev/shm")
        return (facts.f_blocks - facts.f_bfree) * facts.f_frsize
    return 0  # it has ended


def _all() -> Iterator[Process]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - several hundred, many times a minute
        if not name.isdigit():
            continue
        try:
            # Not a Path: its parts go into a table of Python's, which is moved when it is full. 3.12.1 forgets none.
            with open(f"/proc/{name}/stat", errors="replace") as file:  # noqa: PTH123
                text = file.read()
        except OSError:
            continue  # it has just ended
        fields = text.rpartition(")")[2].split()
        yield Process(
            pid=int(name),
            parent=int(fields[1]),
            threads=int(fields[17]),
            ticks=int(fields[11]) + int(fields[12]),
            started=int(fields[19]),
            resident=int(fields[21]) * _PAGE,
        )


def _open_files(pid: int) -> Iterator[os.stat_result]:
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - as above
            with contextlib.suppress(OSError):  # closed between our two looks
                yield os.stat(f"/proc/{pid}/fd/{number}")  # noqa: PTH116 - as above
