"""The watchdog, which measures sandboxes repeatedly and acts on a sandbox that is over its limits.

The kernel enforces some limits (see :class:`.limits.Enforcer`). The watchdog enforces the disk limit and, without
control groups, the limits for the memory and the processes of a whole sandbox. The watchdog runs in the manager,
because programs in a sandbox could stop a watchdog in the same sandbox.
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
from ..handle import ProcessHandle
from .disk import LimitedFolder
from .limits import MIB, Limits
from .log_file import shorten
from .processes import Process, Processes, UnnamedFiles, memory_of, shared_memory_files, unnamed_files

_INTERVAL = 0.5  # seconds between two looks
_INTERVAL_WHEN_CLOSE = 0.1  # the same while a sandbox is close to its memory limit
_PATIENCE = 3.0  # a sandbox that stays over its memory limit for so many seconds is ended
_BUSY_TICKS = 5  # a sandbox is active when its processor time has changed by so many clock ticks
_OURS = 2  # allowed beyond the limit of processes: the first process and the program
_KILL_NOTICE_SECONDS = 0.3
_LEEWAY = 64 * MIB  # programs in the middle of writing may still write this much after writing was refused

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class WatchedSandbox:
    """A sandbox with its limits and its measurements."""

    name: str
    root: int  # the pid of the first process
    log: Path
    folders: list[LimitedFolder]  # the sandbox's own folder, then its volumes
    limits: Limits
    end: Callable[[], None]  # called in the event loop
    tell: Callable[[int, str], Awaitable[None]]  # called before a process is killed, with its pid inside and the reason
    killing: list[tuple[Process, str]] = field(default_factory=list)
    started: int | None = None
    ticks: int = -1
    active: bool = False  # True: the sandbox was busy since its disk was measured
    unnamed: UnnamedFiles = field(default_factory=UnnamedFiles)
    over_since: float | None = None
    ending: bool = False

    @property
    def refused(self) -> bool:
        return any(folder.refused_at is not None for folder in self.folders)

    def is_root_of(self, family: list[Process]) -> bool:
        """Return whether ``family[0]`` is the sandbox's first process, and not a later process with the same pid."""
        self.started = self.started or family[0].started
        return self.started == family[0].started


class Watchdog:
    """A watchdog over the disk use of sandboxes and, if ``memory`` is set, their memory and number of processes."""

    def __init__(self, disk_usage: Callable[[Path], int], *, memory: bool) -> None:
        self._disk_usage = disk_usage
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
        paths = [layout.root, *(mount.source for mount in layout.mounts)]
        folders = [LimitedFolder(path, limits.disk) for path in paths]
        self._watched[name] = WatchedSandbox(name, root, layout.log, folders, limits, end, tell)
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
            with _logged("sandboxes"):
                close, ending = await asyncio.to_thread(self._look, list(self._watched.values()))
                await self._kill_all()
                self._end_all(ending)
            await asyncio.sleep(_INTERVAL_WHEN_CLOSE if close else _INTERVAL)

    async def _run_disks(self) -> None:
        while True:
            with _logged("sandboxes"):
                self._end_all(await asyncio.to_thread(self._look_at_disks, list(self._watched.values())))
            await asyncio.sleep(_INTERVAL)

    def _end_all(self, ending: list[WatchedSandbox]) -> None:
        for sandbox in ending:
            with _logged(f"sandbox {sandbox.name}"):
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
        with _logged(f"sandbox {sandbox.name}"), contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_KILL_NOTICE_SECONDS):
                await sandbox.tell(_inner_pid(process.pid), why)
        logger.warning("sandbox %s: its process %d was killed: %s", sandbox.name, process.pid, why)
        with _logged(f"sandbox {sandbox.name}"), contextlib.suppress(ProcessLookupError):
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
            with _logged(f"sandbox {sandbox.name}"):
                family = processes.family(sandbox.root)
                if family and not sandbox.ending and sandbox.is_root_of(family):
                    close |= self._look_at(sandbox, family)
        return close, [sandbox for sandbox in watched if sandbox.ending]

    def _look_at(self, sandbox: WatchedSandbox, family: list[Process]) -> bool:
        ticks = sum(process.ticks for process in family)
        if abs(ticks - sandbox.ticks) >= _BUSY_TICKS:
            sandbox.ticks, sandbox.active = ticks, True
        if sandbox.active or sandbox.refused:
            sandbox.unnamed = unnamed_files(family, sandbox.folders[0].folder.stat().st_dev)
        if not self._memory:
            return False
        self._limit_processes(sandbox, family)
        return self._limit_memory(sandbox, family)

    def _look_at_disks(self, watched: list[WatchedSandbox]) -> list[WatchedSandbox]:
        for sandbox in watched:
            with _logged(f"sandbox {sandbox.name}"):
                shorten(sandbox.log)  # of an inactive sandbox too: writing megabytes takes few ticks
                if (sandbox.active or sandbox.refused) and not sandbox.ending:
                    self._look_at_disk(sandbox)
        return [sandbox for sandbox in watched if sandbox.ending]

    def _look_at_disk(self, sandbox: WatchedSandbox) -> None:
        was_refused = sandbox.refused
        due = [folder for folder in sandbox.folders if folder.is_due()]
        sandbox.active = sandbox.active and len(due) < len(sandbox.folders)
        for folder in due:
            folder.measure(self._disk_usage, sandbox.unnamed.on_disk if folder is sandbox.folders[0] else 0)
            self._limit_disk(sandbox, folder)
        if sandbox.refused or was_refused:
            family = Processes().family(sandbox.root)
            if family and sandbox.is_root_of(family):
                _limit_file_size(family, 0 if sandbox.refused else None)
        if was_refused and not sandbox.refused:
            logger.info("sandbox %s may write again", sandbox.name)

    def _limit_disk(self, sandbox: WatchedSandbox, folder: LimitedFolder) -> None:
        used = _of(folder.used, folder.limit)
        where = "files" if folder is sandbox.folders[0] else f"files in volume {folder.folder.name}"
        if folder.used <= folder.limit:
            folder.refused_at = None
        elif folder.refused_at is None:
            folder.refused_at = folder.used
            logger.warning("sandbox %s has %s of %s; writing is refused", sandbox.name, used, where)
        elif folder.used > folder.refused_at + _LEEWAY:
            self._end(sandbox, f"has {used} of {where} and goes on writing")

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
    # The program is the first child of the first process or, if it was forked, the second child after a placeholder.
    children = [process for process in family if process.parent == family[0].pid]
    children.sort(key=lambda process: process.started)
    if not children:
        return set()
    return {process.pid for process in children[: 2 if _is_placeholder(children[0].pid) else 1]}


def _is_placeholder(pid: int) -> bool:
    with contextlib.suppress(OSError):  # the process has just ended
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        return words == [os.fsencode(word) for word in PLACEHOLDER]
    return False


def _inner_pid(pid: int) -> int:
    # Return the pid of a process in its own pid namespace, or 0 if the process has just ended.
    with contextlib.suppress(OSError):
        found = re.search(r"^NSpid:.*\s(\d+)$", Path(f"/proc/{pid}/status").read_text(errors="replace"), re.MULTILINE)
        return int(found[1]) if found else pid
    return 0


def _limit_file_size(family: list[Process], size: int | None) -> None:
    # With None, files may grow up to the hard limit of each process.
    for process in family:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            soft, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            wanted = hard if size is None else size
            if soft != wanted:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (wanted, hard))


@contextlib.contextmanager
def _logged(subject: str) -> Iterator[None]:
    # Limits depend on these checks: an error at one sandbox must stop neither the checks of others nor later checks.
    try:
        yield
    except FileNotFoundError:
        logger.debug("%s has just been removed", subject)
    except Exception:
        logger.exception("%s could not be looked at", subject)


def _of(used: int, limit: int) -> str:
    return f"{used // MIB} of {limit // MIB} MiB"
