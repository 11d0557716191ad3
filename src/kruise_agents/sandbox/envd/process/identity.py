"""Start of programs as another user, in the process group of commands, and with a raised OOM score.

Commands lead neither a session nor a group. Otherwise the program ``setsid`` would fork in a command, and end early.
Their session is that of this process. Their group is another, so that a command that signals its own group, as
``kill 0`` does, spares this process. A waiting shell leads the group.

``subprocess`` can change the user, but then calls ``fork`` instead of ``vfork``. ``fork`` copies this process's page
tables, which takes about ten times as long as the rest of the start and blocks the event loop. To Linux, each thread
has its own user ids; it is the C library that changes the ids of all threads. On x86-64 and AArch64, a thread therefore
takes the user's ids, starts the program, which inherits the ids, and takes the thread's old ids back. The main thread
never does that, because a user's programs can kill a process whose main thread has the user's ids.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...linux.process import check, libc
from ..users import User

_PR_SET_DUMPABLE = 4
# setgroups, setresgid, setresuid
_SYSTEM_CALLS = {"x86_64": (116, 119, 117), "aarch64": (159, 149, 147)}.get(platform.machine())

_LEADER = ("/bin/sh", "-c", "read -r _", "leader of commands")
_COMMAND_SCORE = 100  # above that of this process
_MOST = 1000
_SCORE_FILE = Path("/proc/self/oom_score_adj")
logger = logging.getLogger(__name__)


def start_as(
    user: User, command: Sequence[str], *, own_session: bool = False, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a program as ``user``: as the leader of a session if ``own_session``, else in the group of commands.

    The other options and the exceptions are those of ``subprocess.Popen``.
    """
    options |= {"start_new_session": True} if own_session else {"process_group": _commands.id()}
    with _commands_killed_first():
        if user.uid == os.getuid():
            return subprocess.Popen(command, **options)
        groups = user.groups
        if _SYSTEM_CALLS is None:
            return subprocess.Popen(command, user=user.uid, group=user.gid, extra_groups=groups, **options)
        return _thread().submit(_start_here, user.uid, user.gid, groups, command, options).result()


class _Group:
    """The process group of commands."""

    def __init__(self) -> None:
        self._leader: subprocess.Popen[bytes] | None = None

    def id(self) -> int:
        """Return the group's id. The group exists at least until this method is called again."""
        # A killed leader stays in its group until it is reaped. Only poll() reaps it.
        if self._leader is None or self._leader.poll() is not None:
            self._leader = subprocess.Popen(
                _LEADER,
                env={},
                cwd="/",
                stdin=subprocess.PIPE,  # whose end, at the end of this process, ends the shell
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
        return self._leader.pid


_commands = _Group()


@functools.cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="start")


def _start_here(
    uid: int, gid: int, groups: list[int], command: Sequence[str], options: dict[str, Any]
) -> subprocess.Popen[bytes]:
    with _ids(uid, gid, groups):
        return subprocess.Popen(command, **options)


@contextlib.contextmanager
def _ids(uid: int, gid: int, groups: list[int]) -> Iterator[None]:
    """Change the calling thread's user id, group id and supplementary groups until the end of the block."""
    own_groups = os.getgroups()
    try:
        # The saved ids stay 0, so that the thread can return to 0. A program loses saved ids when it is executed.
        _set_groups(groups)
        _call(1, gid, gid, 0)
        _call(2, uid, uid, 0)
        yield
    finally:
        # The user id comes first, because user 0 has the rights that the other calls need.
        _call(2, 0, 0, 0)
        _call(1, 0, 0, 0)
        _set_groups(own_groups)
        libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _set_groups(groups: list[int]) -> None:
    _call(0, len(groups), (ctypes.c_uint32 * len(groups))(*groups))


def _call(which: int, *arguments: object) -> None:
    assert _SYSTEM_CALLS is not None
    check(libc.syscall(_SYSTEM_CALLS[which], *arguments), "changing to another user")


@contextlib.contextmanager
def _commands_killed_first() -> Iterator[None]:
    """Raise the OOM score of this process during the block. Programs started in the block inherit the score."""
    # When memory runs out, the kernel usually kills these programs before this process. A score that is set after the
    # start comes too late for the children of a shell. Any process may raise its own score and lower it again.
    own = _read_score()
    if own is None or not _write_score(min(own + _COMMAND_SCORE, _MOST)):
        yield
        return
    try:
        yield
    finally:
        _write_score(own)


def _read_score() -> int | None:
    try:
        return int(_SCORE_FILE.read_bytes())
    except OSError as error:
        _report(str(error))
        return None


def _write_score(score: int) -> bool:
    try:
        _SCORE_FILE.write_bytes(b"%d" % score)
    except OSError as error:
        _report(str(error))
        return False
    return True


@functools.cache
def _report(text: str) -> None:
    logger.warning("commands do not go before the agent when memory runs out: %s", text)
