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
LEAST = {"cpus": 1, "memory": 128, "processes": 64, "disk": 16}  # what a sandbox needs; memory and disk in MiB
MOST = 1_000_000_000
_COUNTS_SINCE = (5, 14)  # the version of Linux


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a sandbox. Every number must be at least 1."""

    memory: int = 2048 * MIB  # bytes
    processes: int = 2048  # processes and threads together
    cpus: int = 2
    disk: int = 10240 * MIB  # bytes of the sandbox's folder, with its first files; also of each volume


class Enforcer(ABC):
    """A way to limit the memory, the processes and the processors of a sandbox by means of the kernel."""

    name: str
    summary: str  # printed when the manager starts
    holds_memory: bool  # True: the kernel limits the memory of a sandbox as a whole; False: the watchdog does

    @abstractmethod
    def program_limits(self, limits: Limits) -> ProgramLimits:
        """Return the limits that the sandbox's program reports, or sets on itself and its child processes."""

    @abstractmethod
    def limited(self, name: str, limits: Limits) -> AbstractContextManager[Sequence[str]]:
        """Limit the process that the ``with`` block starts. Yield arguments that go before the process's command."""

    def release(self, name: str) -> None:  # noqa: B027 - not every enforcer has something to undo
        """Undo :meth:`limited`. Call this method when no process of the sandbox is left. A second call does nothing."""


class ResourceLimits(Enforcer):
    """Limits that need no rights and that child processes inherit: resource limits (rlimits) and processor affinity.

    The memory limit holds for each process. From Linux 5.14 on, the process limit usually holds for a whole sandbox.
    """

    name = "rlimits"
    holds_memory = False

    def __init__(self, because: str) -> None:
        self._count_processes = _counts_processes()
        self.summary = (
            "limits of a sandbox: by resource limits; the memory of all its processes is measured, and may exceed its "
            f"limit for a moment ({because})"
        )

    def program_limits(self, limits: Limits) -> ProgramLimits:
        processes = limits.processes if self._count_processes else None
        return replace(common_limits(limits), max_data=limits.memory, max_processes=processes)

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


def common_limits(limits: Limits) -> ProgramLimits:
    """Return the limits for the sandbox's program: it sets the maximum file size, and only reports memory and disk."""
    return ProgramLimits(memory=limits.memory, disk=limits.disk, max_file=limits.disk)


def _counts_processes() -> bool:
    # Newer kernels count the processes of each user namespace. Older ones count all processes of a user of the machine.
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _COUNTS_SINCE
