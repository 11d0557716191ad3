"""System calls that change this process: its name, its open descriptors and its dumpable flag."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Collection

_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, step: str) -> None:
    """Raise OSError if ``result`` of the last call through :data:`libc` is not 0; ``step`` begins the error's text."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{step}: {os.strerror(number)}")


def set_process_name(name: str) -> None:
    """Set this process's name, cut to 15 bytes, for example so that ``pkill python`` spares a sandbox's program."""
    libc.prctl(_PR_SET_NAME, os.fsencode(name)[:15], 0, 0, 0)


def make_dumpable() -> None:
    """Give ``/proc/self`` back to this process's user. A change of ids or capabilities may have given it to root."""
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def close_on_exec() -> None:
    """Close all descriptors but the first three in every program that this process, or a child of it, executes."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, no paths
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the listing's own descriptor, which is closed already
                os.set_inheritable(int(name), False)


def close_all_but(kept: Collection[int]) -> None:
    """Close all descriptors but ``kept``."""
    # Not os.closerange: a Python that was built for old systems tries every number up to the limit.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, no paths
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the listing's own descriptor, which is closed already
                os.close(int(name))
