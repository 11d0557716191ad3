"""How this program takes memory from the machine."""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8
"""``malloc.h`` of glibc."""


def share_memory_between_threads() -> None:
    """Let all threads of this program take memory from one place; to be called before there are any.

    glibc gives each thread an arena of its own, and what is freed there stays there. Now and then Python moves its
    table of names, about a megabyte, in whichever thread it happens to; so in the end every thread would hold one or
    two megabytes of nothing. They hold the interpreter while they take memory, so that they do not wait for each other
    here either. Other C libraries have no such setting, and no such arenas. Who sets glibc's own variable decides.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)
