"""Handles (pidfds) of processes. A later manager finds the same process again by pid, start time and boot ID."""

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
    """The identity of a process. Linux reuses pids, but practically never with the same start time in the same boot."""

    pid: int
    started: int  # in clock ticks since the boot
    boot: str


class ProcessHandle:
    """A handle of a process. A signal sent through the handle never reaches a later process with the same pid."""

    def __init__(self, identity: ProcessIdentity, descriptor: int) -> None:
        self.identity = identity
        self._descriptor = descriptor

    @classmethod
    def of(cls, pid: int) -> Self:
        """Return a handle of the process that has this pid now. Raises ProcessLookupError if there is none."""
        descriptor = os.pidfd_open(pid)
        try:
            return cls(ProcessIdentity(pid, _start_time(pid), boot_id()), descriptor)
        except OSError as error:
            os.close(descriptor)
            raise ProcessLookupError(f"process {pid} has just ended") from error

    @classmethod
    def find(cls, identity: ProcessIdentity) -> Self | None:
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
        return not is_readable(self._descriptor, 0)

    def send(self, number: signal.Signals) -> None:
        """Send a signal. Has no effect on a process that has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    async def ended(self) -> None:
        # Each wait needs its own descriptor: the event loop accepts one reader per descriptor.
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
        os.close(self._descriptor)


def is_readable(descriptor: int, seconds: float) -> bool:
    """Wait until a descriptor can be read, or is at its end. Return False if that takes longer than ``seconds``."""
    waiting = select.poll()  # not select.select(), which takes no number above 1023: connections may have all others
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def boot_id() -> str:
    """Return the ID of the current boot of this machine."""
    return _BOOT.read_text(encoding="ascii").strip()


def _start_time(pid: int) -> int:
    # The start time is field 22. The process name in field 2 may contain anything, for example a bracket.
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(stat.rpartition(")")[2].split()[19])
