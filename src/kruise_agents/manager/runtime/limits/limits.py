"""How much of the machine one sandbox may take, and what holds it to that."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from ....protocol.control import ProgramLimits

MIB = 1024 * 1024
LEAST = {"cpus": 1, "memory": 128, "processes": 64, "disk": 16}
"""What a sandbox needs to start, in the units in which people say it: memory and disk in MiB."""
MOST = 1_000_000_000
_COUNTS_SINCE = (5, 14)


@dataclass(frozen=True, slots=True)
class Limits:
    """The share of one sandbox. Every number is at least 1; one that is never reached is the same as none.

    Parameters:
        memory: bytes of memory.
        processes: processes and threads, together.
        cpus: processors.
        disk: bytes of files, those that it begins with included.
    """

    memory: int = 2048 * MIB
    processes: int = 2048
    cpus: int = 2
    disk: int = 10240 * MIB


class Enforcer(ABC):
    """What keeps memory, processes and processors within the limits. (Disk: always :class:`.watchdog.Watchdog`.)"""

    name: str
    summary: str
    """What it is, in one line, for the start of the manager."""
    holds_memory: bool
    """Whether the kernel does it for the sandbox as a whole; if not, its memory has to be watched."""

    @abstractmethod
    def program_limits(self, limits: Limits) -> ProgramLimits:
        """Return the limits that the sandbox's program reports and sets on itself."""

    @abstractmethod
    def limited(self, name: str, limits: Limits) -> AbstractContextManager[Sequence[str]]:
        """A process that is started inside the block runs within the limits.

        Returns:
            What must stand before its command.

        Raises:
            OSError: they could not be set up; nothing is left.
        """

    @abstractmethod
    def release(self, name: str) -> None:
        """Take down what :meth:`limited` set up; its processes have ended. May be called twice."""


class ResourceLimits(Enforcer):
    """Limits that every process inherits; works everywhere, without any rights.

    Processes are counted for the sandbox as a whole and memory for each process, so that the whole has to be watched.
    """

    name = "rlimits"
    holds_memory = False

    def __init__(self, because: str) -> None:
        self._count_processes = counts_processes()
        self.summary = (
            f"limits of a sandbox: by resource limits, and memory by measuring, which can come late by a moment "
            f"({because})"
        )

    def program_limits(self, limits: Limits) -> ProgramLimits:
        processes = limits.processes if self._count_processes else None
        return replace(common_limits(limits), max_data=limits.memory, max_processes=processes)

    @contextlib.contextmanager
    def limited(self, name: str, limits: Limits) -> Iterator[Sequence[str]]:
        """See :meth:`Enforcer.limited`: processors belong to a thread, and what it starts inherits them."""
        usable = os.sched_getaffinity(0)
        if limits.cpus < len(usable):
            os.sched_setaffinity(0, random.sample(sorted(usable), limits.cpus))
        try:
            yield ()
        finally:
            os.sched_setaffinity(0, usable)

    def release(self, name: str) -> None:
        """See :meth:`Enforcer.release`."""


def common_limits(limits: Limits) -> ProgramLimits:
    """Return what is right with every enforcer: the reported limits, and that no file is larger than the disk."""
    return ProgramLimits(memory=limits.memory, disk=limits.disk, max_file=limits.disk)


def counts_processes() -> bool:
    """Whether this kernel counts processes for a user namespace; before, it counted a user's on the whole machine."""
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _COUNTS_SINCE
