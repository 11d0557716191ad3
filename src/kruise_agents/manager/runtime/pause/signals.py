"""Stopping a whole tree of processes with signals, and letting it go on as it was.

For machines without control groups that can be frozen. Programs notice nothing but the clock: a parent is stopped
before its children and continued after them, so that no shell ever sees a child that is stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection
from pathlib import Path


def stopped_in(root: int, *, spare_root: bool) -> tuple[int, ...]:
    """The processes below ``root`` that are stopped: as jobs of a shell, for example."""
    return tuple(pid for pid in _below(root, spare_root) if _is_stopped(pid))


def stop_tree(root: int, *, spare_root: bool) -> None:
    """Stop every process below ``root``, until no new one appears.

    Parameters:
        spare_root: let the first one run, so that it can still take orders.
    """
    stopped: set[int] = set()
    while fresh := [pid for pid in _below(root, spare_root) if pid not in stopped]:
        for pid in fresh:
            _send(pid, signal.SIGSTOP)
            stopped.add(pid)


def continue_tree(root: int, asleep: Collection[int]) -> None:
    """Continue what :func:`stop_tree` has stopped, except ``asleep``."""
    for pid in reversed(_tree(root)):
        if pid not in asleep:
            _send(pid, signal.SIGCONT)


def _below(root: int, spare_root: bool) -> list[int]:
    return _tree(root)[1 if spare_root else 0 :]


def _tree(root: int) -> list[int]:
    """``root`` and its descendants, parents first."""
    found = [root]
    for pid in found:
        with contextlib.suppress(OSError):  # it has just ended
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    found += [int(child) for child in (thread / "children").read_text(encoding="ascii").split()]
    return found


def _is_stopped(pid: int) -> bool:
    """Whether it is, or will be as soon as it gets a processor."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False  # it has just ended
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    pending = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return fields["State"].startswith("T") or bool(pending >> (signal.SIGSTOP - 1) & 1)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has just ended
