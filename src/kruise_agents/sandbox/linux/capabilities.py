"""The capability sets of this process, set by system calls."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_VERSION_3 = 0x20080522
_LAST_FILE = Path("/proc/sys/kernel/cap_last_cap")
_WORD = 0xFFFFFFFF
_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def bound(kept: int) -> None:
    """Remove all capabilities but ``kept`` (a bit for each) from the bounding set.

    Raises:
        OSError: The kernel refused.
    """
    for capability in range(int(_LAST_FILE.read_text(encoding="ascii")) + 1):
        if not kept >> capability & 1 and _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) == 1:
            _check(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "capability bounding set")


def hold(effective: int, permitted: int, inheritable: int) -> None:
    """Set the three sets, with a bit for each capability.

    Raises:
        OSError: The kernel refused.
    """
    halves = [
        _Sets(effective >> shift & _WORD, permitted >> shift & _WORD, inheritable >> shift & _WORD) for shift in (0, 32)
    ]
    header = _Header(_VERSION_3, 0)
    _check(_libc.capset(ctypes.byref(header), (_Sets * 2)(*halves)), "capabilities")


def hand_on(ambient: int) -> None:
    """Add capabilities, which must be permitted and inheritable, to those that started programs get.

    Raises:
        OSError: The kernel refused.
    """
    for capability in members(ambient):
        _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0), "ambient capabilities")


def members(bits: int) -> Iterable[int]:
    """Return the numbers of the capabilities in a set."""
    return (number for number in range(bits.bit_length()) if bits >> number & 1)


def _check(result: int, step: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{step}: {os.strerror(number)}")
