"""The watchdog, which measures sandboxes repeatedly and acts on a sandbox that is over its limits.

The kernel enforces some limits (see :class:`.limits.Enforcer`). The watchdog enforces the disk limit and, without
control groups, the limits for the memory and the processes of a whole sandbox. The watchdog runs in the manager,
because programs in a sandbox could stop a watchdog in the same sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..files.layout import Layout
from ..handle import ProcessHandle
from .disk import LimitedFolder, SandboxDisk, Usage
from .guard import guarded
from .limits import MIB, Limits
from .memory import SandboxMemory, Verdict
from .processes import Process, Processes, memory_taken

_INTERVAL = 0.5  # seconds between two looks
_INTERVAL_WHEN_CLOSE = 0.1  # the same while a sandbox is close to its limit
_BUSY_TICKS = 5  # a sandbox is active when its processor time has changed by so many clock ticks
_OURS = 2  # allowed beyond the limit of processes: the first process and the program
_LOOKS_AT_ONCE = 2  # one at processes, one at disks
_DISKS_AT_ONCE = 3  # disks that are measured at a time, so that one with many files does not delay the others
_KILL_NOTICE_SECONDS = 0.3
_DYING_SECONDS = 1.0
# Memory is looked at as soon as programs have taken a part of the room that a sandbox has left.
_FASTEST = 8192 * MIB  # programs take no more in a second
_SHORTEST = 0.02  # seconds
_PACE = 4  # the least time between two looks, in durations of a look
_ROOM_SHARE = 4
_LEAST_ROOM = 32 * MIB
_SURVEYORS = 2  # threads

_T = TypeVar("_T")
logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class WatchedSandbox:
    """A sandbox with its limits and its measurements."""

    name: str
    root: int  # the pid of the first process
    folder: Path
    limits: Limits
    end: Callable[[], None]  # called in the event loop
    tell: Callable[[int, str], Awaitable[None]]  # called before a process is killed, with its pid inside and the reason
    started: int | None = None
    ticks: int = -1
    ending: bool = False
    dying: set[tuple[int, int]] = field(default_factory=set)  # the identities of processes that are being killed
    family: tuple[float, list[Process]] = (0.0, [])  # the processes as of the last look, and its time
    surveyed: bool = False  # True: a survey of the memory is under way
    disk: SandboxDisk = field(init=False)
    memory: SandboxMemory = field(init=False)
    measured: bool = False  # True: the disk is being measured

    def is_root_of(self, family: list[Process]) -> bool:
        """Return whether ``family[0]`` is the sandbox's first process, and not a later process with the same pid."""
        self.started = self.started or family[0].started
        return self.started == family[0].started

    def without_dying(self, family: list[Process]) -> list[Process]:
        dying = set(self.dying)
        return [process for process in family if process.identity not in dying]


class Watchdog:
    """A watchdog over the disk use of sandboxes and, if ``memory`` is set, their memory and number of processes.

    ``disk_held`` returns whether the kernel limits the own files of a sandbox, which are then not measured.
    """

    def __init__(self, disk_usage: Usage, *, memory: bool, disk_held: Callable[[Path], bool] = lambda _: False) -> None:
        self._disk_usage = disk_usage
        self._disk_held = disk_held
        self._memory = memory
        self._watched: dict[str, WatchedSandbox] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._background = set[asyncio.Task[None]]()
        # Threads of their own, so that neither the manager's other work delays a look, nor what takes long here.
        self._lookers = ThreadPoolExecutor(_LOOKS_AT_ONCE, "look")
        self._surveyors = ThreadPoolExecutor(_SURVEYORS, "memory-survey")
        self._measurers = ThreadPoolExecutor(_DISKS_AT_ONCE, "disk")

    def add(
        self,
        name: str,
        root: int,
        layout: Layout,
        limits: Limits,
        end: Callable[[], None],
        tell: Callable[[int, str], Awaitable[None]],
    ) -> None:
        """Watch a sandbox until :meth:`remove`. :class:`WatchedSandbox` explains ``root``, ``end`` and ``tell``."""
        sandbox = WatchedSandbox(name, root, layout.root, limits, end, tell)
        measured = [] if self._disk_held(layout.rootfs) else [layout.root]
        measured += [mount.source for mount in layout.mounts]
        sandbox.disk = SandboxDisk(name, layout, measured, limits.disk, functools.partial(_family, sandbox))
        sandbox.memory = SandboxMemory(root, limits.memory, layout.root.stat().st_dev)
        self._watched[name] = sandbox
        if not self._tasks:
            # Disks have a task of their own, because measuring a disk may take long.
            self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._run_disks())]

    def remove(self, name: str) -> None:
        self._watched.pop(name, None)
        if not self._watched:
            for task in (*self._tasks, *self._background):
                task.cancel()
            self._tasks = []

    async def _run(self) -> None:
        sudden = False
        while True:
            taken, took = memory_taken(), 0.0
            watched = list(self._watched.values())
            with guarded("sandboxes"):
                verdicts, took = await _in_thread(self._lookers, self._look, watched, sudden)
                for sandbox, verdict in verdicts:
                    self._carry_out(sandbox, verdict)
                self._end_all([sandbox for sandbox in watched if sandbox.ending])
                self._start_surveys(watched)
            sudden = await self._rest(took, taken)

    async def _rest(self, took: float, taken: int | None) -> bool:
        """Wait after a look. Return True if programs have taken much memory since then.

        ``took`` is the processor time to list all processes, ``taken`` the memory of all programs before the look.
        """
        if not self._memory or taken is None:
            await asyncio.sleep(_INTERVAL_WHEN_CLOSE if self._memory else _INTERVAL)
            return True
        until = time.monotonic() + max(_INTERVAL, took)
        room = max(_LEAST_ROOM, min((sandbox.memory.room for sandbox in self._watched.values()), default=0))
        pause = max(_SHORTEST, _PACE * took, room / _FASTEST)
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(pause, left))
            if (memory_taken() or 0) - taken > room // _ROOM_SHARE:
                return True
        return False

    async def _run_disks(self) -> None:
        while True:
            watched = list(self._watched.values())
            with guarded("sandboxes"):
                for sandbox, due in await _in_thread(self._lookers, _look_at_disks, watched):
                    sandbox.measured = True
                    self._in_background(self._measure(sandbox, due))
            close = any(sandbox.disk.is_close for sandbox in watched)
            await asyncio.sleep(_INTERVAL_WHEN_CLOSE if close else _INTERVAL)

    async def _measure(self, sandbox: WatchedSandbox, due: list[LimitedFolder]) -> None:
        try:
            with guarded(f"the disk of sandbox {sandbox.name}"):
                reason = await _in_thread(self._measurers, sandbox.disk.measure, due, self._disk_usage)
                self._carry_out(sandbox, Verdict(end=reason))
                self._end_all([sandbox] if sandbox.ending else [])
        finally:
            sandbox.measured = False

    def _end_all(self, ending: list[WatchedSandbox]) -> None:
        for sandbox in ending:
            with guarded(f"sandbox {sandbox.name}"):
                if self._watched.get(sandbox.name) is sandbox:
                    sandbox.end()

    def _start_surveys(self, watched: list[WatchedSandbox]) -> None:
        for sandbox in watched:
            if self._memory and not sandbox.ending and not sandbox.surveyed and sandbox.memory.wants_survey:
                sandbox.surveyed = True
                self._in_background(self._survey(sandbox))

    async def _survey(self, sandbox: WatchedSandbox) -> None:
        def survey() -> Verdict:
            listed_at, family = sandbox.family
            if time.monotonic() - listed_at > _INTERVAL_WHEN_CLOSE:
                family = _family(sandbox)
            return sandbox.memory.survey(sandbox.without_dying(family)) if family else Verdict()

        try:
            with guarded(f"the memory of sandbox {sandbox.name}"):
                verdict = await _in_thread(self._surveyors, survey)
                self._carry_out(sandbox, verdict)
                self._end_all([sandbox] if sandbox.ending else [])
        finally:
            sandbox.surveyed = False

    def _carry_out(self, sandbox: WatchedSandbox, verdict: Verdict) -> None:
        if verdict.end is not None and not sandbox.ending:
            self._end(sandbox, verdict.end)
        for process, why in verdict.victims:
            if process.identity not in sandbox.dying:
                sandbox.dying.add(process.identity)
                self._in_background(self._kill(sandbox, process, why))

    async def _kill(self, sandbox: WatchedSandbox, process: Process, why: str) -> None:
        with guarded(f"sandbox {sandbox.name}"), contextlib.suppress(ProcessLookupError):
            handle = ProcessHandle.of(process.pid)
            try:
                # The pid may belong to a later process by now. The handle, once made, stays with its process.
                if handle.identity.started == process.started:
                    await self._kill_by(handle, sandbox, process, why)
            finally:
                handle.close()
        sandbox.dying.discard(process.identity)

    async def _kill_by(self, handle: ProcessHandle, sandbox: WatchedSandbox, process: Process, why: str) -> None:
        try:
            handle.send(signal.SIGSTOP)  # the process takes nothing more while its end is announced
            await self._announce(sandbox, process, why)
        finally:
            handle.send(signal.SIGKILL)
        try:
            async with asyncio.timeout(_DYING_SECONDS):
                await handle.ended()
        except TimeoutError:
            logger.warning("sandbox %s: its process %d does not end", sandbox.name, process.pid)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _announce(self, sandbox: WatchedSandbox, process: Process, why: str) -> None:
        # The sandbox's program may not answer, for example because code in the sandbox disturbs it.
        with guarded(f"sandbox {sandbox.name}"), contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_KILL_NOTICE_SECONDS):
                await sandbox.tell(_inner_pid(process.pid), why)
        logger.warning("sandbox %s: its process %d was killed: %s", sandbox.name, process.pid, why)

    def _look(self, watched: list[WatchedSandbox], sudden: bool) -> tuple[list[tuple[WatchedSandbox, Verdict]], float]:
        """Look at the processes of all sandboxes. Return what is to be done, and the processor time to list them."""
        before = time.thread_time()
        processes = Processes()
        took = time.thread_time() - before
        verdicts = []
        for sandbox in watched:
            with guarded(f"sandbox {sandbox.name}"):
                family = processes.family(sandbox.root)
                if family and not sandbox.ending and sandbox.is_root_of(family):
                    verdicts.append((sandbox, self._look_at(sandbox, family, sudden)))
        return verdicts, took

    def _look_at(self, sandbox: WatchedSandbox, family: list[Process], sudden: bool) -> Verdict:
        ticks = sum(process.ticks for process in family)
        busy = abs(ticks - sandbox.ticks) >= _BUSY_TICKS
        if busy:
            sandbox.ticks, sandbox.disk.active, sandbox.memory.active = ticks, True, True
        if not self._memory:
            return Verdict()
        # The kernel limits processes too, but not before Linux 5.14, for the host's root, or without namespaces.
        number = sum(process.threads for process in family)
        if number > sandbox.limits.processes + _OURS:
            return Verdict(end=f"has {number} processes and threads of {sandbox.limits.processes}")
        sandbox.family = time.monotonic(), family
        if not busy and not sudden and sandbox.memory.is_fresh:
            return Verdict()
        return sandbox.memory.look(sandbox.without_dying(family))

    def _end(self, sandbox: WatchedSandbox, why: str) -> None:
        logger.warning("sandbox %s %s; it is ended", sandbox.name, why)
        sandbox.ending = True


async def _in_thread(threads: ThreadPoolExecutor, function: Callable[..., _T], *arguments: Any) -> _T:
    return await asyncio.get_running_loop().run_in_executor(threads, functools.partial(function, *arguments))


def _inner_pid(pid: int) -> int:
    # Return the pid of a process in its own pid namespace, or 0 if the process has just ended.
    with contextlib.suppress(OSError):
        found = re.search(r"^NSpid:.*\s(\d+)$", Path(f"/proc/{pid}/status").read_text(errors="replace"), re.MULTILINE)
        return int(found[1]) if found else pid
    return 0


def _look_at_disks(watched: list[WatchedSandbox]) -> list[tuple[WatchedSandbox, list[LimitedFolder]]]:
    """Look at the disks of sandboxes. Return the sandboxes with folders to measure now, each with these folders."""
    found = []
    for sandbox in watched:
        with guarded(f"the disk of sandbox {sandbox.name}"):
            due = sandbox.disk.look()
            if due and not sandbox.measured and not sandbox.ending:
                found.append((sandbox, due))
    return found


def _family(sandbox: WatchedSandbox) -> list[Process]:
    family = Processes().family(sandbox.root)
    return family if family and sandbox.is_root_of(family) else []
