"""The registry of processes that clients started: running, or ended in the last 30 seconds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ...connect import Code, ConnectError, Json, Message
from .process import Process

_REMEMBERED_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that has ended, with its end event."""

    pid: int
    tag: str | None
    event: Json
    forget_timer: asyncio.TimerHandle


class Registry:
    """Running and ended processes, found by the selectors of requests."""

    def __init__(self) -> None:
        self._running: dict[int, Process] = {}
        self._ended: dict[int, Ended] = {}

    def add(self, process: Process) -> None:
        """Add a running process, and forget ended processes with the same pid or tag."""
        for old in list(self._ended.values()):
            if old.pid == process.pid or (old.tag is not None and old.tag == process.tag):
                self._forget(old.pid)
        self._running[process.pid] = process

    def ended(self, process: Process, event: Json) -> None:
        del self._running[process.pid]
        timer = asyncio.get_running_loop().call_later(_REMEMBERED_SECONDS, self._forget, process.pid)
        self._ended[process.pid] = Ended(process.pid, process.tag, event, timer)

    def running(self) -> list[Process]:
        return list(self._running.values())

    def find(self, selector: Message | None) -> Process:
        """Return the running process that a ``ProcessSelector`` means. Raise ConnectError if there is none."""
        found = self.find_or_ended(selector)
        if isinstance(found, Ended):
            raise _not_found(selector)
        return found

    def find_or_ended(self, selector: Message | None) -> Process | Ended:
        """Return the process that ``selector`` means, preferably a running one. Raise ConnectError if there is none."""
        found: Process | Ended | None
        if selector is not None and selector.has("pid"):
            pid = selector.uint32("pid")
            found = self._running.get(pid) or self._ended.get(pid)
        elif selector is not None and selector.has("tag"):
            tag = selector.text("tag")
            everyone: list[Process | Ended] = [*self._running.values(), *self._ended.values()]
            found = next((process for process in everyone if process.tag == tag), None)
        else:
            raise ConnectError(Code.UNIMPLEMENTED, "invalid process selector: neither pid nor tag")
        if found is None:
            raise _not_found(selector)
        return found

    def close(self) -> None:
        for pid in list(self._ended):
            self._forget(pid)

    def _forget(self, pid: int) -> None:
        self._ended.pop(pid).forget_timer.cancel()


def _not_found(selector: Message | None) -> ConnectError:
    if selector is not None and selector.has("pid"):
        return ConnectError(Code.NOT_FOUND, f"process with pid {selector.uint32('pid')} not found")
    tag = selector.text("tag") if selector is not None else ""
    return ConnectError(Code.NOT_FOUND, f"process with tag {tag} not found")
