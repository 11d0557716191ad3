"""Looks at every sandbox again and again, and acts on those that take more than their share.

The kernel refuses what it can (see :class:`.limits.Enforcer`); this is for the rest: the disk always, and without
control groups the memory of a sandbox as a whole. It runs in the manager, because programs in a sandbox can stop one
another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from .limits import MIB, Limits
from .usage import Process, Processes, hidden_in, memory_of, shared_memory_files

_INTERVAL = 0.5
_INTERVAL_WHEN_CLOSE = 0.1
_PATIENCE = 3.0
"""Seconds over the limit, whatever is killed, until the whole sandbox is ended."""
_BUSY_TICKS = 5
"""Processor time, in clock ticks, below which a sandbox is taken to have done nothing since the last look."""
_DISK_SECONDS = 1.0
_DISK_SHARE = 50
"""Measuring a disk that is not close to its limit may take one part in so many of the time."""
_OURS = 2
"""Processes of a sandbox that are ours: the first one and its program."""
_TELLING_SECONDS = 0.3
_LEEWAY = 64 * MIB
"""What may still be written, by programs that were in the middle of it, after writing was refused."""

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Watched:
    """One sandbox.

    Parameters:
        name: for the log.
        root: its first process.
        folder: everything that it can write to.
        limits: its share.
        end: ends it as a whole; called in the event loop.
        tell: lets the sandbox know which of its processes (by its own number) is about to be killed, and why.
    """

    name: str
    root: int
    folder: Path
    limits: Limits
    end: Callable[[], None]
    tell: Callable[[int, str], Awaitable[None]]
    killing: list[tuple[Process, str]] = field(default_factory=list)
    started: int | None = None
    ticks: int = -1
    hidden_memory: dict[int, int] = field(default_factory=dict)
    over_since: float | None = None
    ending: bool = False
    measured_at: float = 0.0
    measured_in: float = 0.0
    disk: int = 0
    disk_free: int = 0
    refused_at: int | None = None
    """Bytes on disk when writing was refused; None: it is not."""


class Watch:
    """Watches sandboxes from :meth:`add` to :meth:`remove`.

    Parameters:
        disk_usage: bytes that a sandbox's folder takes.
        memory: whether memory and processes are watched as well as the disk.
    """

    def __init__(self, disk_usage: Callable[[Path], int], *, memory: bool) -> None:
        self._disk_usage = disk_usage
        self._memory = memory
        self._watched: dict[str, Watched] = {}
        self._task: asyncio.Task[None] | None = None

    def add(
        self,
        name: str,
        root: int,
        folder: Path,
        limits: Limits,
        end: Callable[[], None],
        tell: Callable[[int, str], Awaitable[None]],
    ) -> None:
        """Watch a sandbox; see :class:`Watched`. Must be called in the event loop."""
        self._watched[name] = Watched(name, root, folder, limits, end, tell)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def remove(self, name: str) -> None:
        """Watch it no longer; nothing happens when it is not watched."""
        self._watched.pop(name, None)
        if not self._watched and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            close, ending = False, list[Watched]()
            try:
                close, ending = await asyncio.to_thread(self._look, list(self._watched.values()))
            except Exception:
                # Whatever it is, the next look may succeed, and without looks there would be no limits.
                logger.exception("sandboxes could not be looked at")
            await self._kill_all()
            for one in ending:
                if one.name in self._watched:
                    one.end()
            await asyncio.sleep(_INTERVAL_WHEN_CLOSE if close else _INTERVAL)

    async def _kill_all(self) -> None:
        """At once, so that no sandbox has to wait for another."""
        killing = [(one, *victim) for one in self._watched.values() for victim in one.killing]
        for one in self._watched.values():
            one.killing = []
        await asyncio.gather(*(self._kill_one(*victim) for victim in killing))

    async def _kill_one(self, one: Watched, process: Process, why: str) -> None:
        # A sandbox whose program does not answer, or was disturbed by its own code, is not waited for.
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_TELLING_SECONDS):
                await one.tell(_inner_number(process.pid), why)
        logger.warning("sandbox %s: its process %d was killed: %s", one.name, process.pid, why)
        _kill(process)

    def _look(self, watched: list[Watched]) -> tuple[bool, list[Watched]]:
        """Whether the next look should be soon, and what is to be ended."""
        processes = Processes.now()
        close = False
        for one in watched:
            family = processes.family(one.root)
            if not family or one.ending:
                continue
            one.started = one.started or family[0].started
            if one.started != family[0].started:
                continue  # it has ended, and somebody else got its number
            ticks = sum(process.ticks for process in family)
            busy = abs(ticks - one.ticks) >= _BUSY_TICKS or one.refused_at is not None
            if busy:
                one.ticks = ticks
                self._look_into(one, family)
            if self._memory:
                close |= self._hold_memory(one, family)
                self._hold_processes(one, family)
        return close, [one for one in watched if one.ending]

    def _look_into(self, one: Watched, family: list[Process]) -> None:
        with contextlib.suppress(FileNotFoundError):  # it has just been removed
            hidden = hidden_in(family, one.folder.stat().st_dev)
            one.hidden_memory = hidden.in_memory
            if self._disk_is_due(one):
                before = time.monotonic()
                one.disk_free = _free(one.folder)
                one.disk = self._disk_usage(one.folder) + hidden.on_disk
                one.measured_at = time.monotonic()
                one.measured_in = one.measured_at - before
                self._hold_disk(one)
            if one.refused_at is not None:
                _limit_files(family, 0)

    def _disk_is_due(self, one: Watched) -> bool:
        passed = time.monotonic() - one.measured_at
        if passed < max(_DISK_SECONDS, 2 * one.measured_in):
            return False
        # Whoever wrote it: no more can have come here than has gone from the disk.
        gone = one.disk_free - _free(one.folder)
        return passed > _DISK_SHARE * one.measured_in or 2 * gone > one.limits.disk - one.disk

    def _hold_disk(self, one: Watched) -> None:
        if one.refused_at is None:
            if one.disk > one.limits.disk:
                one.refused_at = one.disk
                used = _of(one.disk, one.limits.disk)
                logger.warning("sandbox %s has %s of files; writing is refused", one.name, used)
        elif one.disk <= one.limits.disk:
            one.refused_at = None
            _limit_files(Processes.now().family(one.root), None)
            logger.info("sandbox %s may write again", one.name)
        elif one.disk > one.refused_at + _LEEWAY:
            self._end(one, f"has {_of(one.disk, one.limits.disk)} of files and goes on writing")

    def _hold_memory(self, one: Watched, family: list[Process]) -> bool:
        """Kill the largest processes until the rest is within the limit. Returns whether it is close to it."""
        limit = one.limits.memory
        hidden = sum(one.hidden_memory.values())
        files = shared_memory_files(one.root)
        if (rough := sum(process.resident for process in family) + hidden + files) <= limit:
            one.over_since = None
            return rough > limit // 2
        memory = {process: memory_of(process) for process in family}
        shared = sum(each.shared for each in memory.values())
        total = sum(each.anonymous for each in memory.values()) + shared + hidden + max(0, files - shared)
        if total <= limit:
            one.over_since = None
            return True
        one.over_since = one.over_since or time.monotonic()
        if time.monotonic() - one.over_since > _PATIENCE:
            self._end(one, f"took {_of(total, limit)} of memory again and again")
            return True
        takes = {
            process: each.anonymous + each.shared + one.hidden_memory.get(process.pid, 0)
            for process, each in memory.items()
        }
        kept = {one.root, _program(family).pid}
        for process in sorted(takes, key=lambda each: takes[each], reverse=True):
            if total <= limit:
                return True
            if process.pid not in kept:
                why = f"the sandbox took {_of(total, limit)} of memory, and this process {takes[process] // MIB}"
                one.killing.append((process, why))
                total -= takes[process]
        if total > limit:
            self._end(one, f"took {_of(total, limit)} of memory, and not by its programs")
        return True

    def _hold_processes(self, one: Watched, family: list[Process]) -> None:
        """For kernels and users where the kernel does not count them for a sandbox."""
        number = sum(process.threads for process in family)
        if number > one.limits.processes + _OURS:
            self._end(one, f"has {number} processes and threads of {one.limits.processes}")

    def _end(self, one: Watched, why: str) -> None:
        logger.warning("sandbox %s %s; it is ended", one.name, why)
        one.ending = True


def _program(family: list[Process]) -> Process:
    """The sandbox's own program: what the first process started first."""
    children = [process for process in family if process.parent == family[0].pid]
    return min(children, key=lambda process: process.started, default=family[0])


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            # From here on it cannot be another one; it still may have become another one before.
            if _started(process.pid) == process.started:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _inner_number(pid: int) -> int:
    """How a process is called in its own pid namespace; 0 when it has just ended."""
    with contextlib.suppress(OSError):
        found = re.search(r"^NSpid:.*\s(\d+)$", Path(f"/proc/{pid}/status").read_text(errors="replace"), re.MULTILINE)
        return int(found[1]) if found else pid
    return 0


def _started(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    return None


def _limit_files(family: list[Process], size: int | None) -> None:
    """Let no file grow past ``size`` bytes by these processes; None: as far as they were allowed in the beginning."""
    for process in family:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            soft, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            wanted = hard if size is None else size
            if soft != wanted:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (wanted, hard))


def _free(folder: Path) -> int:
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def _of(used: int, limit: int) -> str:
    return f"{used // MIB} of {limit // MIB} MiB"
