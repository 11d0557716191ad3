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
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ....protocol.control import PLACEHOLDER
from ..files.layout import Layout
from .disk import Space
from .limits import MIB, Limits
from .log_file import shorten
from .processes import Hidden, Process, Processes, hidden_in, memory_of, shared_memory_files

_INTERVAL = 0.5
_INTERVAL_WHEN_CLOSE = 0.1
_PATIENCE = 3.0
"""Seconds over the limit, whatever is killed, until the whole sandbox is ended."""
_BUSY_TICKS = 5
"""Processor time, in clock ticks, below which a sandbox is taken to have done nothing since the last look."""
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
        log: what its program writes.
        spaces: everything that it can write to: its own folder first, then its volumes.
        limits: its share.
        end: ends it as a whole; called in the event loop.
        tell: lets the sandbox know which of its processes (by its own number) is about to be killed, and why.
    """

    name: str
    root: int
    log: Path
    spaces: list[Space]
    limits: Limits
    end: Callable[[], None]
    tell: Callable[[int, str], Awaitable[None]]
    killing: list[tuple[Process, str]] = field(default_factory=list)
    started: int | None = None
    ticks: int = -1
    active: bool = False
    """Whether it did something since its disk was looked at."""
    hidden: Hidden = field(default_factory=Hidden)
    over_since: float | None = None
    ending: bool = False

    @property
    def refused(self) -> bool:
        """Whether its programs may not write."""
        return any(space.refused_at is not None for space in self.spaces)


class Watchdog:
    """Watches sandboxes from :meth:`add` to :meth:`remove`.

    Processes and disks in turns of their own: a disk may take long to measure.

    Parameters:
        disk_usage: bytes that a sandbox's folder takes.
        memory: whether memory and processes are watched as well as the disk.
    """

    def __init__(self, disk_usage: Callable[[Path], int], *, memory: bool) -> None:
        self._disk_usage = disk_usage
        self._memory = memory
        self._watched: dict[str, Watched] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def add(
        self,
        name: str,
        root: int,
        layout: Layout,
        limits: Limits,
        end: Callable[[], None],
        tell: Callable[[int, str], Awaitable[None]],
    ) -> None:
        """Watch the sandbox in ``layout``; see :class:`Watched`. Must be called in the event loop."""
        folders = [layout.root, *(mount.source for mount in layout.mounts)]
        spaces = [Space(folder, limits.disk) for folder in folders]
        self._watched[name] = Watched(name, root, layout.log, spaces, limits, end, tell)
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._run_disks())]

    def remove(self, name: str) -> None:
        """Watch it no longer; nothing happens when it is not watched."""
        self._watched.pop(name, None)
        if not self._watched:
            for task in self._tasks:
                task.cancel()
            self._tasks = []

    async def _run(self) -> None:
        while True:
            close, ending = False, list[Watched]()
            with _surviving("sandboxes"):
                close, ending = await asyncio.to_thread(self._look, list(self._watched.values()))
            await self._kill_all()
            self._end_all(ending)
            await asyncio.sleep(_INTERVAL_WHEN_CLOSE if close else _INTERVAL)

    async def _run_disks(self) -> None:
        while True:
            with _surviving("sandboxes"):
                self._end_all(await asyncio.to_thread(self._look_at_disks, list(self._watched.values())))
            await asyncio.sleep(_INTERVAL)

    def _end_all(self, ending: list[Watched]) -> None:
        for one in ending:
            if one.name in self._watched:
                one.end()

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
            with _surviving(f"sandbox {one.name}"):
                family = processes.family(one.root)
                if family and not one.ending and self._is_same(one, family):
                    close |= self._look_at(one, family)
        return close, [one for one in watched if one.ending]

    def _is_same(self, one: Watched, family: list[Process]) -> bool:
        """Whether it has not ended, and somebody else got its number."""
        one.started = one.started or family[0].started
        return one.started == family[0].started

    def _look_at(self, one: Watched, family: list[Process]) -> bool:
        ticks = sum(process.ticks for process in family)
        if abs(ticks - one.ticks) >= _BUSY_TICKS:
            one.ticks, one.active = ticks, True
        if one.active or one.refused:
            one.hidden = hidden_in(family, one.spaces[0].folder.stat().st_dev)
        if not self._memory:
            return False
        self._hold_processes(one, family)
        return self._hold_memory(one, family)

    def _look_at_disks(self, watched: list[Watched]) -> list[Watched]:
        """What is to be ended."""
        for one in watched:
            with _surviving(f"sandbox {one.name}"):
                shorten(one.log)  # a few megabytes are written in no time that would count as having done something
                if (one.active or one.refused) and not one.ending:
                    self._look_at_disk(one)
        return [one for one in watched if one.ending]

    def _look_at_disk(self, one: Watched) -> None:
        was_refused = one.refused
        due = [space for space in one.spaces if space.is_due()]
        one.active = one.active and len(due) < len(one.spaces)
        for space in due:
            space.measure(self._disk_usage, one.hidden.on_disk if space is one.spaces[0] else 0)
            self._hold_disk(one, space)
        if one.refused or was_refused:
            family = Processes.now().family(one.root)
            if family and self._is_same(one, family):
                _limit_files(family, 0 if one.refused else None)
        if was_refused and not one.refused:
            logger.info("sandbox %s may write again", one.name)

    def _hold_disk(self, one: Watched, space: Space) -> None:
        used = _of(space.used, space.limit)
        where = "files" if space is one.spaces[0] else f"files in volume {space.folder.name}"
        if space.used <= space.limit:
            space.refused_at = None
        elif space.refused_at is None:
            space.refused_at = space.used
            logger.warning("sandbox %s has %s of %s; writing is refused", one.name, used, where)
        elif space.used > space.refused_at + _LEEWAY:
            self._end(one, f"has {used} of {where} and goes on writing")

    def _hold_memory(self, one: Watched, family: list[Process]) -> bool:
        """Kill the largest processes until the rest is within the limit. Returns whether it is close to it."""
        limit = one.limits.memory
        hidden = sum(one.hidden.in_memory.values())
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
            process: each.anonymous + each.shared + one.hidden.in_memory.get(process.pid, 0)
            for process, each in memory.items()
        }
        kept = {one.root, *_ours(family)}
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


def _ours(family: list[Process]) -> set[int]:
    """The sandbox's own program: what the first process started first; with a placeholder also what came after that."""
    children = sorted(
        (process for process in family if process.parent == family[0].pid), key=lambda process: process.started
    )
    if not children:
        return set()
    placed = _is_placeholder(children[0].pid)
    return {process.pid for process in children[: 2 if placed else 1]}


def _is_placeholder(pid: int) -> bool:
    with contextlib.suppress(OSError):  # it has just ended
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        return words == [os.fsencode(word) for word in PLACEHOLDER]
    return False


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


@contextlib.contextmanager
def _surviving(what: str) -> Iterator[None]:
    """Whatever goes wrong at one sandbox, the others are looked at, and so is this one the next time.

    Without looks there would be no limits.
    """
    try:
        yield
    except FileNotFoundError:
        logger.debug("%s has just been removed", what)
    except Exception:
        logger.exception("%s could not be looked at", what)


def _of(used: int, limit: int) -> str:
    return f"{used // MIB} of {limit // MIB} MiB"
