"""Limits of a sandbox for memory, processes, processors and disk, and the interface for enforcing them."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import re
import resource
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from ....protocol.control import ProgramLimits

MIB = 1024 * 1024
LEAST = {"cpus": 1, "memory": 128, "processes": 64, "disk": 16}  # what a sandbox needs; memory and disk in MiB
MOST = 1_000_000_000
_COUNTS_SINCE = (5, 14)  # the version of Linux
_CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
_NO_CORE_HELPER = 1
"""The only core size limit, in bytes, at which Linux pipes no core dump to a helper. At 0 Linux starts the helper."""
_OOM_SCORE = 500


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a sandbox. Every number must be at least 1."""

    memory: int = 2048 * MIB  # bytes
    processes: int = 2048  # processes and threads together
    cpus: int = 2
    disk: int = 10240 * MIB  # bytes of the sandbox's folder, with its first files; also of each volume


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """Limits that a process passes on to its children, and that no process of a sandbox can raise."""

    processes: int | None = None  # and threads, of the whole sandbox
    file: int | None = None  # bytes of one file

    def impose(self, pid: int) -> None:
        """Set the soft and hard limits of a process that has no children yet, never above its old hard limits."""
        # Linux gives a new user namespace the process limit that its creator has at that moment.
        for kind, limit in (
            (resource.RLIMIT_NPROC, self.processes),
            (resource.RLIMIT_FSIZE, self.file),
        ):
            if limit is not None:
                _lower(pid, kind, limit)
        if _CORE_PATTERN.read_text(encoding="utf-8", errors="replace").startswith("|"):
            # Otherwise a crash in the sandbox would start the host's crash reporter, as root and outside of the
            # sandbox. A hard limit that is 0 already stays 0, so the reporter starts: only the host's root may raise
            # hard limits. The reporter also starts if code in the sandbox lowers its own limit to 0 and then crashes.
            _lower(pid, resource.RLIMIT_CORE, _NO_CORE_HELPER)
        end_before_others(pid)


NO_LIMITS = ProcessLimits()


class Enforcer(ABC):
    """A way to limit the memory, the processes and the processors of a sandbox by means of the kernel."""

    name: str
    summary: str  # printed when the manager starts
    holds_memory: bool  # True: the kernel limits the memory of a sandbox as a whole; False: the watchdog does

    def process_limits(self, limits: Limits) -> ProcessLimits:
        """Return the limits of each process."""
        return ProcessLimits(file=limits.disk)

    @abstractmethod
    def limited(self, name: str, limits: Limits) -> AbstractContextManager[Sequence[str]]:
        """Limit the process that the ``with`` block starts. Yield arguments that go before the process's command."""

    def release(self, name: str) -> None:  # noqa: B027 - not every enforcer has something to undo
        """Undo :meth:`limited`. Call this method when no process of the sandbox is left. A second call does nothing."""


class DiskEnforcer(ABC):
    """A way to limit the space of a sandbox's own files."""

    name: str
    summary: str  # printed when the manager starts

    @abstractmethod
    def limit(self, folder: Path, limits: Limits) -> None:
        """Limit an empty folder, with everything that will be in it. Raises OSError if that fails."""

    @abstractmethod
    def holds(self, folder: Path) -> bool:
        """Return whether the kernel limits the folder. If not, the watchdog measures the folder."""

    @abstractmethod
    def release(self, folder: Path) -> None:
        """Undo :meth:`limit`, before the folder is removed. Does nothing if the folder is gone or not limited."""


class MeasuredDisk(DiskEnforcer):
    """Limits by the watchdog alone, which need no rights and no help of the file system."""

    name = "measured"

    def __init__(self, because: str) -> None:
        self.summary = f"limit of a sandbox's disk: measured, and may be exceeded for a moment ({because})"

    def limit(self, folder: Path, limits: Limits) -> None:
        pass

    def holds(self, folder: Path) -> bool:
        return False

    def release(self, folder: Path) -> None:
        pass


class ResourceLimits(Enforcer):
    """Limits that need no rights and that child processes inherit: resource limits (rlimits) and processor affinity.

    Memory is left to the watchdog. From Linux 5.14 on, the process limit usually holds for a whole sandbox.
    """

    name = "rlimits"
    holds_memory = False

    def __init__(self, because: str) -> None:
        self._count_processes = _counts_processes()
        self.summary = (
            "limits of a sandbox: by resource limits; the memory of all its processes is measured, and may exceed its "
            f"limit for a moment ({because})"
        )

    def process_limits(self, limits: Limits) -> ProcessLimits:
        processes = limits.processes if self._count_processes else None
        return replace(super().process_limits(limits), processes=processes)

    @contextlib.contextmanager
    def limited(self, name: str, limits: Limits) -> Iterator[Sequence[str]]:
        # Every process inherits the processors of the thread that starts it.
        usable = os.sched_getaffinity(0)
        if limits.cpus < len(usable):
            os.sched_setaffinity(0, random.sample(sorted(usable), limits.cpus))
        try:
            yield ()
        finally:
            os.sched_setaffinity(0, usable)


def reported_limits(limits: Limits) -> ProgramLimits:
    """Return the limits that the sandbox's program reports."""
    return ProgramLimits(memory=limits.memory, disk=limits.disk)


def end_before_others(pid: int) -> None:
    """Have the kernel end a process, and its later children, before the manager if the machine runs out of memory."""
    score = Path(f"/proc/{pid}/oom_score_adj")
    with contextlib.suppress(OSError):  # the process has just ended, or the machine lets nobody do that
        if int(score.read_text(encoding="ascii")) < _OOM_SCORE:
            score.write_text(str(_OOM_SCORE), encoding="ascii")


def _lower(pid: int, kind: int, limit: int) -> None:
    _, hard = resource.prlimit(pid, kind)
    lowered = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.prlimit(pid, kind, (lowered, lowered))


def _counts_processes() -> bool:
    # Newer kernels count the processes of each user namespace. Older ones count all processes of a user of the machine.
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _COUNTS_SINCE
