"""The processes of a sandbox and their memory, measured from outside, where nothing in the sandbox can interfere."""

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
_MOST_FILES = 50_000  # open files that are looked at, so that no sandbox delays the others
_SHARES = re.compile(r"^(Pss_Anon|Pss_Shmem):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Process:
    """A process at one moment; ``pid`` and ``started`` together never name another process."""

    pid: int
    parent: int
    threads: int
    ticks: int  # processor time in clock ticks
    started: int  # in clock ticks since the boot
    resident: int  # bytes of memory, including shared memory


class Processes:
    """All processes of the machine at this moment, as a tree."""

    def __init__(self) -> None:
        self._by_pid: dict[int, Process] = {}
        self._children: defaultdict[int, list[int]] = defaultdict(list)
        for process in _all():
            self._by_pid[process.pid] = process
            self._children[process.parent].append(process.pid)

    def family(self, root: int) -> list[Process]:
        """Return a process and its descendants: all of a pid namespace, if the process is its first."""
        found, waiting = [], [root]
        while waiting:
            pid = waiting.pop()
            if pid in self._by_pid:
                found.append(self._by_pid[pid])
                waiting += self._children[pid]
        return found


@dataclass(slots=True)
class Memory:
    """Bytes of memory of a process, with its part of the memory that it shares with others. Files are not counted."""

    anonymous: int
    shared: int


def memory_of(process: Process) -> Memory:
    """Return the anonymous and shared memory of a process."""
    folder = Path("/proc", str(process.pid))
    try:
        shares = {name: int(size) * 1024 for name, size in _SHARES.findall((folder / "smaps_rollup").read_text())}
        return Memory(shares["Pss_Anon"], shares["Pss_Shmem"])
    except (OSError, KeyError):
        return Memory(process.resident, 0)  # the file is closed to us, or the process has just ended


@dataclass(slots=True)
class UnnamedFiles:
    """Bytes of files without a name, which exist as long as they are open."""

    in_memory: dict[int, int] = field(default_factory=dict)  # by the (first) process that has the file open
    on_disk: int = 0


def unnamed_files(processes: Iterable[Process], device: int) -> UnnamedFiles:
    """Return the unnamed files that the processes have open; files on another device than the disk are in memory."""
    found = UnnamedFiles()
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
    """Return the bytes of files in the ``/dev/shm`` of a process. Such files take memory, not disk."""
    with contextlib.suppress(OSError):
        facts = os.statvfs(f"/proc/{root}/root/dev/shm")
        return (facts.f_blocks - facts.f_bfree) * facts.f_frsize
    return 0  # the process has ended


def _all() -> Iterator[Process]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - several hundred, many times a minute
        if not name.isdigit():
            continue
        try:
            # Not a Path: Python 3.12.1 keeps its parts for ever, in a table that has to move when it is full.
            with open(f"/proc/{name}/stat", errors="replace") as file:  # noqa: PTH123
                text = file.read()
        except OSError:
            continue  # the process has just ended
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
        for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - not a Path, as in _all()
            with contextlib.suppress(OSError):  # closed since the listing
                yield os.stat(f"/proc/{pid}/fd/{number}")  # noqa: PTH116 - not a Path, as in _all()
