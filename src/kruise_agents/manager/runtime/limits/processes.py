"""The processes of a sandbox and their memory, measured from outside, so that code in the sandbox cannot interfere."""

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
_MOST_FILES = 50_000  # the most open files of a sandbox to look at, so that no sandbox delays the others
_SHARES = re.compile(r"^(Pss_Anon|Pss_Shmem):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Process:
    """The figures of a process at one moment. ``pid`` and ``started`` together identify the process."""

    pid: int
    parent: int
    threads: int
    ticks: int  # processor time in clock ticks, with that of ended child processes that the process has waited for
    started: int  # in clock ticks since the boot
    resident: int  # bytes of memory, with shared memory and mapped files


class Processes:
    """All processes of the machine as a tree, read when the object is made."""

    def __init__(self) -> None:
        self._by_pid: dict[int, Process] = {}
        self._children: defaultdict[int, list[int]] = defaultdict(list)
        for process in _all():
            self._by_pid[process.pid] = process
            self._children[process.parent].append(process.pid)

    def family(self, root: int) -> list[Process]:
        """Return a process and its descendants. Orphans are included, because a sandbox's first process adopts them."""
        found, waiting = [], [root]
        while waiting:
            pid = waiting.pop()
            if pid in self._by_pid:
                found.append(self._by_pid[pid])
                waiting += self._children[pid]
        return found


@dataclass(slots=True)
class Memory:
    """Bytes of memory of a process. Memory that several processes share is usually divided between them."""

    anonymous: int
    shared: int


def memory_of(process: Process) -> Memory:
    """Return the memory of a process, except mapped files. If that cannot be read, return all resident memory."""
    folder = Path("/proc", str(process.pid))
    try:
        shares = {name: int(size) * 1024 for name, size in _SHARES.findall((folder / "smaps_rollup").read_text())}
        return Memory(shares["Pss_Anon"], shares["Pss_Shmem"])
    except (OSError, KeyError):
        return Memory(process.resident, 0)  # this user may not read the file, or the process has just ended


@dataclass(slots=True)
class UnnamedFiles:
    """Bytes of open files without a name, for example deleted files. They take space while a process has them open."""

    in_memory: dict[int, int] = field(default_factory=dict)  # by the pid of the first process that has the file open
    on_disk: int = 0


def unnamed_files(processes: Iterable[Process], device: int) -> UnnamedFiles:
    """Return the sizes of nameless files among the first :data:`_MOST_FILES` files that the processes have open."""
    # ``device`` is the disk. Files on other devices are in memory.
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
    """Return the bytes used in a sandbox's own ``/dev/shm``. ``root`` is the pid of the sandbox's first process."""
    with contextlib.suppress(OSError):  # the process has ended
        if not Path(f"/proc/{root}/root").samefile("/"):  # otherwise the folder is the machine's
            facts = os.statvfs(f"/proc/{root}/root/dev/shm")
            return (facts.f_blocks - facts.f_bfree) * facts.f_frsize
    return 0


def _all() -> Iterator[Process]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - faster for several hundred names
        if not name.isdigit():
            continue
        try:
            # Not a Path: Python 3.12.1 keeps the parts of every Path for ever, in a table that gets slow to enlarge.
            with open(f"/proc/{name}/stat", errors="replace") as file:  # noqa: PTH123
                text = file.read()
        except OSError:
            continue  # the process has just ended
        fields = text.rpartition(")")[2].split()
        yield Process(
            pid=int(name),
            parent=int(fields[1]),
            threads=int(fields[17]),
            ticks=sum(map(int, fields[11:15])),
            started=int(fields[19]),
            resident=int(fields[21]) * _PAGE,
        )


def _open_files(pid: int) -> Iterator[os.stat_result]:
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - not a Path, as in _all()
            with contextlib.suppress(OSError):  # closed since the listing
                yield os.stat(f"/proc/{pid}/fd/{number}")  # noqa: PTH116 - not a Path, as in _all()
