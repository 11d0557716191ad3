"""What ``ps`` shows of a fork: the command line, the environment and the name that an exec would have given it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_NAME = 15
_PR_SET_MM = 35
_PR_SET_MM_MAP = 14
_NO_FILE = 0xFFFFFFFF
# Fields of /proc/<pid>/stat (proc(5)), counted from the one behind the name.
_START_CODE, _END_CODE, _START_STACK, _START_DATA, _END_DATA, _START_BREAK = 23, 24, 25, 42, 43, 44
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sbrk.restype = ctypes.c_void_p
_shown: list[mmap.mmap] = []
"""The kernel reads it whenever somebody asks."""


class _Map(ctypes.Structure):
    """``struct prctl_mm_map`` of ``linux/prctl.h``."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("start_code", "end_code", "start_data", "end_data")),
        *((name, ctypes.c_uint64) for name in ("start_brk", "brk", "start_stack")),
        *((name, ctypes.c_uint64) for name in ("arg_start", "arg_end", "env_start", "env_end")),
        ("auxv", ctypes.c_void_p),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    )


def show(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Be called by this command line, with this environment.

    A kernel that was built without checkpoint and restore goes on showing the zygote's.
    """
    _libc.prctl(_PR_SET_NAME, os.fsencode(os.path.basename(command[0]))[:15], 0, 0, 0)  # noqa: PTH119 - bytes
    arguments = b"".join(os.fsencode(part) + b"\0" for part in command)
    variables = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environment.items())
    # Of other memory the kernel shows nothing.
    memory = mmap.mmap(-1, len(arguments) + len(variables) + 1, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(arguments + variables)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fields = [int(field) for field in Path("/proc/self/stat").read_text().rpartition(")")[2].split()[1:]]
    shown = _Map(
        *(fields[index - 1] for index in (_START_CODE, _END_CODE, _START_DATA, _END_DATA, _START_BREAK)),
        _libc.sbrk(0),
        fields[_START_STACK - 1],
        start,
        start + len(arguments),
        start + len(arguments),
        start + len(arguments) + len(variables),
        None,
        0,
        _NO_FILE,
    )
    if _libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.byref(shown), ctypes.sizeof(shown), 0) == 0:
        _shown.append(memory)
