"""The descendants of a process."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Return the processes below ``pid``. A process whose parent has ended belongs to process 1 or another reaper."""
    found: list[int] = []
    waiting = [pid]
    while waiting:  # not a recursion, because a tree may be deeper than Python's stack
        children = _children(waiting.pop())
        found += children
        waiting += children
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(OSError):  # the process has just ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children += [int(child) for child in (thread / "children").read_text().split()]
    return children


def kill_tree(root: int) -> None:
    """Kill a child of this process, and all descendants of the child."""
    # A stopped process neither forks nor ends, so none of its children gets lost.
    stopped: set[int] = set()
    while found := {root, *descendants(root)} - stopped:
        _signal(found, signal.SIGSTOP)
        stopped |= found
    _signal(stopped, signal.SIGKILL)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
