"""Changes of this process by system calls: its name, its open descriptors, and the check of a call's result."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Collection

_PR_SET_NAME = 15
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, step: str) -> None:
    """Raise OSError, with the error of the last call of :data:`libc`, if ``result`` is not 0."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{step}: {os.strerror(number)}")


def set_process_name(name: str) -> None:
    """Name this process, so that ``pkill python`` ends the programs that are meant, and not the sandbox."""
    libc.prctl(_PR_SET_NAME, os.fsencode(name)[:15], 0, 0, 0)


def close_all_but(kept: Collection[int]) -> None:
    """Close all descriptors but ``kept``."""
    # Not os.closerange: a Python that was built for old systems tries every number up to the limit.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the descriptor that listed them
                os.close(int(name))
