"""Starting programs as another user.

``subprocess`` can do it, but then it copies this process's page tables for every program (``fork`` instead of
``vfork``), which takes ten times as long as the start itself and stops the event loop meanwhile. The kernel knows ids
per thread; only the C library makes them one per process. So a thread takes on the user's ids, starts the program,
which inherits them, and takes its own back. It is never the main thread: while that one had a user's ids, the user's
programs could end this process with a signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

from ..users import User
from .memory import commands_go_first

_PR_SET_DUMPABLE = 4
# setgroups, setresgid, setresuid
_SYSTEM_CALLS = {"x86_64": (116, 119, 117), "aarch64": (159, 149, 147)}.get(platform.machine())
_libc = ctypes.CDLL(None, use_errno=True)


class Identity(TypedDict, total=False):
    """What ``subprocess.Popen`` is to change."""

    user: int
    group: int
    extra_groups: list[int]


Start = Callable[[Identity], subprocess.Popen[bytes]]
"""Calls ``subprocess.Popen`` with these and other options."""


def start_as(user: User, start: Start) -> subprocess.Popen[bytes]:
    """Call ``start`` so that the program which it starts runs as ``user``.

    Raises:
        OSError: this process may not do that, or what ``start`` raises.
    """
    with commands_go_first():
        if user.uid == os.getuid():
            return start({})
        groups = user.groups
        if _SYSTEM_CALLS is None:
            return start({"user": user.uid, "group": user.gid, "extra_groups": groups})
        return _thread().submit(_start_here, user.uid, user.gid, groups, start).result()


@functools.cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="start")


def _start_here(uid: int, gid: int, groups: list[int], start: Start) -> subprocess.Popen[bytes]:
    with _ids(uid, gid, groups):
        return start({})


@contextlib.contextmanager
def _ids(uid: int, gid: int, groups: list[int]) -> Iterator[None]:
    """The calling thread has these ids inside the block."""
    own_groups = os.getgroups()
    try:
        _set(uid, gid, groups)
        yield
    finally:
        # The user id first: with it come the rights that the others need.
        _call(2, 0, 0, 0)
        _call(1, 0, 0, 0)
        _set_groups(own_groups)
        _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _set(uid: int, gid: int, groups: list[int]) -> None:
    # The saved ids stay 0, as the way back; a program that is executed does not keep them.
    _set_groups(groups)
    _call(1, gid, gid, 0)
    _call(2, uid, uid, 0)


def _set_groups(groups: list[int]) -> None:
    _call(0, len(groups), (ctypes.c_uint32 * len(groups))(*groups))


def _call(which: int, *arguments: object) -> None:
    assert _SYSTEM_CALLS is not None
    if _libc.syscall(_SYSTEM_CALLS[which], *arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"changing to another user: {os.strerror(number)}")
