"""Limits of a sandbox for memory, processes, processors and disk, and the interface for enforcing them."""

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
LEAST = {"cpus": 1, "memory": 128, "processes": 64, "disk": 16}  # to start a sandbox; memory and disk in MiB
MOST = 1_000_000_000
_COUNTS_SINCE = (5, 14)  # Linux


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a sandbox. Every number is at least 1."""

    memory: int = 2048 * MIB
    processes: int = 2048  # processes and threads together
    cpus: int = 2
    disk: int = 10240 * MIB  # including the files that the sandbox begins with


class Enforcer(ABC):
    """Keeps memory, processes and processors within the limits; the disk is the task of the watchdog."""

    name: str
    summary: str  # printed when the manager starts
    holds_memory: bool  # whether the kernel limits the memory of a sandbox as a whole; if not, the watchdog does

    @abstractmethod
    def program_limits(self, limits: Limits) -> ProgramLimits:
        """Return the limits that the sandbox's program reports and sets on itself."""

    @abstractmethod
    def limited(self, name: str, limits: Limits) -> AbstractContextManager[Sequence[str]]:
        """Set up the limits for a process that is started in the block; yield the words that go before its command."""

    def release(self, name: str) -> None:  # noqa: B027 - not every enforcer has something to undo
        """Undo :meth:`limited` after the processes have ended. May be called twice."""


class ResourceLimits(Enforcer):
    """Resource limits, which every process inherits; they work everywhere, without any rights.

    The kernel counts the processes of a sandbox together, but the memory of each process alone.
    """

    name = "rlimits"
    holds_memory = False

    def __init__(self, because: str) -> None:
        self._count_processes = counts_processes()
        self.summary = (
            "limits of a sandbox: by resource limits; the memory of all its processes is measured, and may exceed its "
            f"limit for a moment ({because})"
        )

    def program_limits(self, limits: Limits) -> ProgramLimits:
        processes = limits.processes if self._count_processes else None
        return replace(common_limits(limits), max_data=limits.memory, max_processes=processes)

    @contextlib.contextmanager
    def limited(self, name: str, limits: Limits) -> Iterator[Sequence[str]]:
        # A thread has a set of processors, which every process that it starts inherits.
        usable = os.sched_getaffinity(0)
        if limits.cpus < len(usable):
            os.sched_setaffinity(0, random.sample(sorted(usable), limits.cpus))
        try:
            yield ()
        finally:
            os.sched_setaffinity(0, usable)


def common_limits(limits: Limits) -> ProgramLimits:
    """Return the limits that every enforcer needs: the reported limits, and no file larger than the disk limit."""
    return ProgramLimits(memory=limits.memory, disk=limits.disk, max_file=limits.disk)


def counts_processes() -> bool:
    """Return whether this kernel counts processes per user namespace; older kernels count per user of the machine."""
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _COUNTS_SINCE
