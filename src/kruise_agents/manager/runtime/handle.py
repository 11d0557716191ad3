"""A process that is known beyond the life of its parent: found by number, start time and boot, held by a pidfd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """What no other process ever shares: a number is used again, but not with the same start in the same boot."""

    pid: int
    started: int
    """In clock ticks since the boot."""
    boot: str


class ProcessHandle:
    """One process, ours or not: signalled without hitting a stranger, waited for, reaped where that is our task."""

    def __init__(self, identity: ProcessIdentity, descriptor: int) -> None:
        self.identity = identity
        self._descriptor = descriptor

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has this number now.

        Raises:
            ProcessLookupError: there is none.
        """
        descriptor = os.pidfd_open(pid)
        try:
            return cls(ProcessIdentity(pid, _start_time(pid), boot_id()), descriptor)
        except OSError as error:
            os.close(descriptor)
            raise ProcessLookupError(f"process {pid} has just ended") from error

    @classmethod
    def find(cls, identity: ProcessIdentity) -> Self | None:
        """The process with this identity, or None: it has ended."""
        if identity.boot != boot_id():
            return None
        try:
            handle = cls.of(identity.pid)
        except ProcessLookupError:
            return None
        if handle.identity == identity and handle.alive:
            return handle
        handle.close()
        return None

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not select.select([self._descriptor], [], [], 0)[0]

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended takes none."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    async def ended(self) -> None:
        """Wait until it has ended."""
        # A descriptor of its own for every wait: the event loop knows one reader for each.
        descriptor = os.dup(self._descriptor)
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        loop.add_reader(descriptor, done.set)
        try:
            await done.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """Forget it; it goes on."""
        os.close(self._descriptor)


def boot_id() -> str:
    """Which boot of this machine this is."""
    return _BOOT.read_text(encoding="ascii").strip()


def _start_time(pid: int) -> int:
    """Field 22 of ``/proc/<pid>/stat``; the name in field 2 may contain anything."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(stat.rpartition(")")[2].split()[19])
