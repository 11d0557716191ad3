"""The processes of a sandbox and their memory, measured from outside, so that code in the sandbox cannot interfere."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

_BLOCK = 512
_MOST_FILES = 50_000  # the most open files of a sandbox to look at, so that no sandbox delays the others
_MOST_STATUS = 16384  # bytes; much more than the file ever has
_FIGURES = re.compile(
    rb"^(RssAnon|RssShmem|RssFile|VmSwap|VmPTE|Pss_Anon|Pss_Shmem|SwapPss):\s+(\d+) kB$", re.MULTILINE
)
# A process has little to read if its page tables are no larger than for pages that lie close together.
_SPARSE_SHARE = 64
_SPARSE_BYTES = 8 * 1024 * 1024
# The number of the system call kcmp(), and its KCMP_VM.
_KCMP = {"x86_64": 312, "aarch64": 272}.get(platform.machine())
_SAME_MEMORY = 1

_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Process:
    """The figures of a process at one moment. ``pid`` and ``started`` together identify the process."""

    pid: int
    parent: int
    threads: int
    ticks: int  # processor time in clock ticks, with that of ended child processes that the process has waited for
    started: int  # in clock ticks since the boot
    thread: int  # a thread that has the process's memory and files: the first one may have ended before the others

    @property
    def identity(self) -> tuple[int, int]:
        return self.pid, self.started


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


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory of a process, except mapped files."""

    own: int = 0  # pages without a file, also those that were swapped out
    grown: int = 0  # the part of ``own`` that the process has not inherited from its parent, at least
    shared: int = 0  # pages of shared memory and of files in memory
    tables: int = 0  # the page tables, which no processes share
    files: int = 0  # open files in memory without a name, of which this process is the first that has them open
    is_sparse: bool = False  # True: the kernel would take long to find the pages

    @property
    def size(self) -> int:
        return self.own + self.tables + max(self.shared, self.files)


def memory_bound(process: Process) -> Memory:
    """Return the most memory that a process may have, with all pages that it shares. An ended process has none."""
    try:
        found = _figures(f"/proc/{process.thread}/status")
    except OSError:
        return Memory()
    own, shared, tables = found[b"RssAnon"] + found[b"VmSwap"], found[b"RssShmem"], found[b"VmPTE"]
    is_sparse = tables > _SPARSE_BYTES + (own + shared + found[b"RssFile"]) // _SPARSE_SHARE
    return Memory(own, shared=shared, tables=tables, is_sparse=is_sparse)


def memory_share(process: Process, bound: Memory) -> Memory:
    """Return the memory of a process, with its share of the pages that it shares.

    Raises PermissionError if this user may not read that, and FileNotFoundError or ProcessLookupError if the process
    has ended.
    """
    found = _figures(f"/proc/{process.thread}/smaps_rollup")
    return replace(bound, own=found[b"Pss_Anon"] + found[b"SwapPss"], shared=found[b"Pss_Shmem"])


def shares_memory(pid: int, other: int) -> bool:
    """Return whether two processes have all their memory in common, as after vfork(). False if nobody can tell."""
    return _KCMP is not None and _libc.syscall(_KCMP, pid, other, _SAME_MEMORY, 0, 0) == 0


def memory_taken() -> int | None:
    """Return the bytes of memory of all processes of the machine, as the kernel counts them. None: it does not tell."""
    try:
        content = _content("/proc/meminfo")
    except OSError:
        return None  # for example, because this process can open no more files at the moment
    figures = dict(re.findall(rb"^(AnonPages|Shmem|PageTables):\s+(\d+) kB$", content, re.MULTILINE))
    return 1024 * sum(map(int, figures.values())) if figures else None


@dataclass(slots=True)
class UnnamedFiles:
    """Bytes of open files without a name, for example deleted files. They take space while a process has them open."""

    in_memory: dict[int, int] = field(default_factory=dict)  # by the pid of the first process that has the file open
    on_disk: int = 0


def unnamed_files(processes: Iterable[Process], device: int, apart: int | None = None) -> UnnamedFiles:
    """Return the sizes of nameless files among the first :data:`_MOST_FILES` files that the processes have open."""
    # ``device`` is the disk. Files on other devices are in memory. Files on ``apart`` are counted elsewhere.
    found = UnnamedFiles()
    seen = set()
    opened = ((process.pid, facts) for process in processes for facts in _open_files(process.thread))
    for pid, facts in islice(opened, _MOST_FILES):
        if facts.st_nlink or not stat.S_ISREG(facts.st_mode) or (facts.st_dev, facts.st_ino) in seen:
            continue
        seen.add((facts.st_dev, facts.st_ino))
        size = facts.st_blocks * _BLOCK
        if facts.st_dev == device:
            found.on_disk += size
        elif facts.st_dev != apart:
            found.in_memory[pid] = found.in_memory.get(pid, 0) + size
    return found


def shared_memory(root: int) -> tuple[int, int | None]:
    """Return the bytes used in a sandbox's own ``/dev/shm``, and its device. ``root`` is the first process."""
    with contextlib.suppress(OSError):  # the process has ended
        if not Path(f"/proc/{root}/root").samefile("/"):  # otherwise the folder is the machine's
            folder = f"/proc/{root}/root/dev/shm"
            facts = os.statvfs(folder)
            return (facts.f_blocks - facts.f_bfree) * facts.f_frsize, Path(folder).stat().st_dev
    return 0, None


def _all() -> Iterator[Process]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - faster for several hundred names
        if not name.isdigit():
            continue
        try:
            content = _content(f"/proc/{name}/stat")
        except OSError:
            continue  # the process has just ended
        fields = content.rpartition(b")")[2].split()
        pid, threads = int(name), int(fields[17])
        yield Process(
            pid=pid,
            parent=int(fields[1]),
            threads=threads,
            ticks=sum(map(int, fields[11:15])),
            started=int(fields[19]),
            thread=pid if fields[0] != b"Z" or threads == 1 else _other_thread(pid),
        )


def _other_thread(pid: int) -> int:
    with contextlib.suppress(OSError):  # the process has ended
        threads = map(int, os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - not a Path, as in _all()
        return next((thread for thread in threads if thread != pid), pid)
    return pid


def _figures(path: str) -> defaultdict[bytes, int]:
    return defaultdict(int, {name: int(size) * 1024 for name, size in _FIGURES.findall(_content(path))})


def _content(path: str) -> bytes:
    # Not a Path: Python 3.12.1 keeps the parts of every Path for ever, in a table that gets slow to enlarge.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MOST_STATUS)
    finally:
        os.close(descriptor)


def _open_files(pid: int) -> Iterator[os.stat_result]:
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - not a Path, as in _all()
            with contextlib.suppress(OSError):  # closed since the listing
                yield os.stat(f"/proc/{pid}/fd/{number}")  # noqa: PTH116 - not a Path, as in _all()
