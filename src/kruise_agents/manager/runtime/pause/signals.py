"""Stopping and continuing a whole tree of processes by signals, for machines that cannot freeze a control group.

A parent is stopped before its children and continued after them, so that a shell does not see stopped jobs.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection
from pathlib import Path


def stopped_in(root: int, *, spare_root: bool) -> tuple[int, ...]:
    """Return the pids of stopped processes in the tree of ``root``, for example of stopped jobs of a shell."""
    return tuple(pid for pid in _tree(root, spare_root=spare_root) if _is_stopped(pid))


def stop_tree(root: int, *, spare_root: bool) -> None:
    """Stop every process in the tree of ``root``. With ``spare_root``, the root itself keeps running.

    If this function raises OSError, all processes that it has stopped run again.
    """
    seen: set[int] = set()
    stopped: list[int] = []
    try:
        while found := [pid for pid in _tree(root, spare_root=spare_root) if pid not in seen]:
            for pid in found:
                seen.add(pid)
                if not _is_stopped(pid):
                    _send(pid, signal.SIGSTOP)
                    stopped.append(pid)
    except OSError:
        for pid in reversed(stopped):
            _send(pid, signal.SIGCONT)
        raise


def continue_tree(root: int, stopped: Collection[int]) -> None:
    """Continue every process in the tree of ``root``, except the pids ``stopped``."""
    for pid in reversed(_tree(root)):
        if pid not in stopped:
            _send(pid, signal.SIGCONT)


def _tree(root: int, *, spare_root: bool = False) -> list[int]:
    # Return the root and its descendants, parents first.
    found = [root]
    for pid in found:
        with contextlib.suppress(OSError):  # the process has just ended
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    found += [int(child) for child in (thread / "children").read_text(encoding="ascii").split()]
    return found[1:] if spare_root else found


def _is_stopped(pid: int) -> bool:
    # A process with a pending SIGSTOP counts too: it stops before it runs again.
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False  # the process has just ended
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    pending = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return fields["State"].startswith("T") or bool(pending >> (signal.SIGSTOP - 1) & 1)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # the process has just ended
        os.kill(pid, number)
