"""The system call ``openat2`` (Linux 5.6), which opens paths safely in a folder where hostile code may make links."""

from __future__ import annotations

import ctypes
import errno
import os

_SYS_OPENAT2 = 437  # on x86-64, ARM, RISC-V and most other architectures
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_ATTEMPTS = 100
_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_below(folder: int, path: str, flags: int, *, links: bool = True) -> int:
    """Open ``path`` below an open folder, and return the descriptor. Raises OSError if the path leads outside.

    If ``links`` is False, any link in the path raises an OSError too.
    """
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | (0 if links else _RESOLVE_NO_SYMLINKS)
    how = _How(flags | os.O_CLOEXEC, 0, resolve)
    number = errno.EAGAIN
    for _ in range(_ATTEMPTS):  # the kernel asks for a retry when a folder was moved meanwhile
        result = _libc.syscall(_SYS_OPENAT2, folder, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
        if result >= 0:
            return int(result)
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), path)
