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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..bwrap import placeholder
from ..files.layout import Layout
from ..handle import ProcessHandle
from .disk import SandboxDisk, Usage
from .guard import guarded
from .limits import MIB, Limits
from .processes import Process, Processes, UnnamedFiles, memory_of, shared_memory_files, unnamed_files

_INTERVAL = 0.5  # seconds between two looks
_INTERVAL_WHEN_CLOSE = 0.1  # the same while a sandbox is close to its limit
_PATIENCE = 3.0  # a sandbox that stays over its memory limit for so many seconds is ended
_BUSY_TICKS = 5  # a sandbox is active when its processor time has changed by so many clock ticks
_OURS = 2  # allowed beyond the limit of processes: the first process and the program
_KILL_NOTICE_SECONDS = 0.3

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
    killing: list[tuple[Process, str]] = field(default_factory=list)
    started: int | None = None
    ticks: int = -1
    unnamed: UnnamedFiles = field(default_factory=UnnamedFiles)
    over_since: float | None = None
    ending: bool = False
    disk: SandboxDisk = field(init=False)

    def is_root_of(self, family: list[Process]) -> bool:
        """Return whether ``family[0]`` is the sandbox's first process, and not a later process with the same pid."""
        self.started = self.started or family[0].started
        return self.started == family[0].started


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
        self._watched[name] = sandbox
        if not self._tasks:
            # Disks have a task of their own, because measuring a disk may take long.
            self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._run_disks())]

    def remove(self, name: str) -> None:
        self._watched.pop(name, None)
        if not self._watched:
            for task in self._tasks:
                task.cancel()
            self._tasks = []

    async def _run(self) -> None:
        while True:
            close = False
            with guarded("sandboxes"):
                close, ending = await asyncio.to_thread(self._look, list(self._watched.values()))
                await self._kill_all()
                self._end_all(ending)
            await asyncio.sleep(_INTERVAL_WHEN_CLOSE if close else _INTERVAL)

    async def _run_disks(self) -> None:
        while True:
            watched = list(self._watched.values())
            with guarded("sandboxes"):
                self._end_all(await asyncio.to_thread(self._look_at_disks, watched))
            close = any(sandbox.disk.close for sandbox in watched)
            await asyncio.sleep(_INTERVAL_WHEN_CLOSE if close else _INTERVAL)

    def _end_all(self, ending: list[WatchedSandbox]) -> None:
        for sandbox in ending:
            with guarded(f"sandbox {sandbox.name}"):
                if sandbox.name in self._watched:
                    sandbox.end()

    async def _kill_all(self) -> None:
        # All processes at once, so that no sandbox has to wait for another.
        killing = [(sandbox, *victim) for sandbox in self._watched.values() for victim in sandbox.killing]
        for sandbox in self._watched.values():
            sandbox.killing = []
        await asyncio.gather(*(self._kill(*victim) for victim in killing))

    async def _kill(self, sandbox: WatchedSandbox, process: Process, why: str) -> None:
        # The sandbox's program may not answer, for example because code in the sandbox disturbs it.
        with guarded(f"sandbox {sandbox.name}"), contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_KILL_NOTICE_SECONDS):
                await sandbox.tell(_inner_pid(process.pid), why)
        logger.warning("sandbox %s: its process %d was killed: %s", sandbox.name, process.pid, why)
        with guarded(f"sandbox {sandbox.name}"), contextlib.suppress(ProcessLookupError):
            handle = ProcessHandle.of(process.pid)
            # The pid may belong to a later process by now. The handle, once made, stays with its process.
            if handle.identity.started == process.started:
                handle.send(signal.SIGKILL)
            handle.close()

    def _look(self, watched: list[WatchedSandbox]) -> tuple[bool, list[WatchedSandbox]]:
        """Look at the processes of all sandboxes. Return whether to look again soon, and the sandboxes to end."""
        processes = Processes()
        close = False
        for sandbox in watched:
            with guarded(f"sandbox {sandbox.name}"):
                family = processes.family(sandbox.root)
                if family and not sandbox.ending and sandbox.is_root_of(family):
                    close |= self._look_at(sandbox, family)
        return close, [sandbox for sandbox in watched if sandbox.ending]

    def _look_at(self, sandbox: WatchedSandbox, family: list[Process]) -> bool:
        ticks = sum(process.ticks for process in family)
        if abs(ticks - sandbox.ticks) >= _BUSY_TICKS:
            sandbox.ticks, sandbox.disk.active = ticks, True
        if sandbox.disk.active or sandbox.disk.refused:
            sandbox.unnamed = unnamed_files(family, sandbox.folder.stat().st_dev)
        if not self._memory:
            return False
        self._limit_processes(sandbox, family)
        return self._limit_memory(sandbox, family)

    def _look_at_disks(self, watched: list[WatchedSandbox]) -> list[WatchedSandbox]:
        for sandbox in watched:
            with guarded(f"the disk of sandbox {sandbox.name}"):
                reason = None if sandbox.ending else sandbox.disk.look(self._disk_usage)
                if reason is not None:
                    self._end(sandbox, reason)
        return [sandbox for sandbox in watched if sandbox.ending]

    def _limit_memory(self, sandbox: WatchedSandbox, family: list[Process]) -> bool:
        """If memory exceeds the limit, mark processes or the sandbox to be ended. Return whether to look again soon."""
        limit = sandbox.limits.memory
        unnamed = sum(sandbox.unnamed.in_memory.values())
        files = shared_memory_files(sandbox.root)
        if (rough := sum(process.resident for process in family) + unnamed + files) <= limit:
            sandbox.over_since = None
            return rough > limit // 2
        memory = {process: memory_of(process) for process in family}
        shared = sum(part.shared for part in memory.values())
        total = sum(part.anonymous for part in memory.values()) + shared + unnamed + max(0, files - shared)
        if total <= limit:
            sandbox.over_since = None
            return True
        sandbox.over_since = sandbox.over_since or time.monotonic()
        if time.monotonic() - sandbox.over_since > _PATIENCE:
            self._end(sandbox, f"took {_of(total, limit)} of memory again and again")
            return True
        sizes = {
            process: part.anonymous + part.shared + sandbox.unnamed.in_memory.get(process.pid, 0)
            for process, part in memory.items()
        }
        kept = {sandbox.root, *_ours(family)}
        for process in sorted(sizes, key=lambda process: sizes[process], reverse=True):
            if total <= limit:
                return True
            if process.pid not in kept:
                why = f"the sandbox took {_of(total, limit)} of memory, and this process {sizes[process] // MIB}"
                sandbox.killing.append((process, why))
                total -= sizes[process]
        if total > limit:
            self._end(sandbox, f"took {_of(total, limit)} of memory, and not by its programs")
        return True

    def _limit_processes(self, sandbox: WatchedSandbox, family: list[Process]) -> None:
        # The kernel limits processes too, but not before Linux 5.14, for the host's root, or without namespaces.
        number = sum(process.threads for process in family)
        if number > sandbox.limits.processes + _OURS:
            self._end(sandbox, f"has {number} processes and threads of {sandbox.limits.processes}")

    def _end(self, sandbox: WatchedSandbox, why: str) -> None:
        logger.warning("sandbox %s %s; it is ended", sandbox.name, why)
        sandbox.ending = True


def _ours(family: list[Process]) -> set[int]:
    # The program is the first child of the first process or, if there is a placeholder, the second child.
    children = [process for process in family if process.parent == family[0].pid]
    children.sort(key=lambda process: process.started)
    if not children:
        return set()
    return {process.pid for process in children[: 2 if _is_placeholder(children[0].pid) else 1]}


def _is_placeholder(pid: int) -> bool:
    with contextlib.suppress(OSError):  # the process has just ended
        return placeholder.is_placeholder(Path(f"/proc/{pid}/cmdline").read_bytes())
    return False


def _inner_pid(pid: int) -> int:
    # Return the pid of a process in its own pid namespace, or 0 if the process has just ended.
    with contextlib.suppress(OSError):
        found = re.search(r"^NSpid:.*\s(\d+)$", Path(f"/proc/{pid}/status").read_text(errors="replace"), re.MULTILINE)
        return int(found[1]) if found else pid
    return 0


def _family(sandbox: WatchedSandbox) -> list[Process]:
    family = Processes().family(sandbox.root)
    return family if family and sandbox.is_root_of(family) else []


def _of(used: int, limit: int) -> str:
    return f"{used // MIB} of {limit // MIB} MiB"
