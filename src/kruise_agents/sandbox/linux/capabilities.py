"""The capability sets of this process. Each function sets some of them and raises OSError if the kernel refuses."""

from __future__ import annotations

import ctypes
from pathlib import Path

from .process import check, libc

_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_VERSION_3 = 0x20080522
_LAST_FILE = Path("/proc/sys/kernel/cap_last_cap")
_WORD = 0xFFFFFFFF


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def bound(kept: int) -> None:
    """Remove all capabilities but ``kept`` (a bit for each) from the bounding set of this process."""
    for capability in range(int(_LAST_FILE.read_text(encoding="utf-8")) + 1):
        if not kept >> capability & 1 and libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) == 1:
            check(libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "capability bounding set")


def hold(effective: int, permitted: int, inheritable: int) -> None:
    """Set the effective, permitted and inheritable sets, with a bit for each capability."""
    halves = [
        _Sets(effective >> shift & _WORD, permitted >> shift & _WORD, inheritable >> shift & _WORD) for shift in (0, 32)
    ]
    header = _Header(_VERSION_3, 0)
    check(libc.capset(ctypes.byref(header), (_Sets * 2)(*halves)), "capabilities")


def hand_on(ambient: int) -> None:
    """Add capabilities (a bit for each) to the ambient set, which executed programs keep.

    Each capability must be permitted and inheritable.
    """
    for capability in range(ambient.bit_length()):
        if ambient >> capability & 1:
            check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0), "ambient capabilities")
