"""The filter for system calls (seccomp) of everything that runs in an isolated sandbox.

The filter refuses system calls that few programs need. Some of the calls reach what namespaces do not separate
(keyrings). Others reach a part of the kernel with a history of errors (bpf, io_uring, performance counters), lead
around a limit, or hold up processes outside of the sandbox. The filter allows only the socket families that most
programs use.

Run as a program, this module writes the filter to standard output.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_LOAD_WORD = 0x20
_JUMP_IF_EQUAL = 0x15
_JUMP_IF_AT_LEAST = 0x35
_JUMP_IF_ANY_BIT = 0x45
_RETURN = 0x06
# Offsets in the data that a filter sees: number of the call, architecture, lower halves of the first two arguments.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_X32_CALLS = 0x40000000
_TERMINAL_REQUESTS = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX, by which a program can type into its terminal."""
_LEASES = (1024, 1040)
"""F_SETLEASE and F_SETDELEG of fcntl. Whatever opens a leased file, the manager too, waits for up to a minute."""
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
"""Modes of fallocate. With the first alone, a file takes space beyond its end, where no limit of file sizes holds."""
_SOCKETS = (1, 2, 10, 16)
"""The allowed families AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK. AF_VSOCK, for example, would reach the hypervisor."""

_REFUSED = {
    "x86_64": {
        **{"add_key": 248, "request_key": 249, "keyctl": 250},
        **{"bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "open_by_handle_at": 304},
        **{"init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320},
        **{"mount": 165, "umount2": 166, "pivot_root": 155, "setns": 308},
        **{"acct": 163, "quotactl": 179, "swapon": 167, "swapoff": 168, "reboot": 169, "syslog": 103},
        "sched_setaffinity": 203,
    },
    "aarch64": {
        **{"add_key": 217, "request_key": 218, "keyctl": 219},
        **{"bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "open_by_handle_at": 265},
        **{"init_module": 105, "finit_module": 273, "delete_module": 106, "kexec_load": 104, "kexec_file_load": 294},
        **{"mount": 40, "umount2": 39, "pivot_root": 41, "setns": 268},
        **{"acct": 89, "quotactl": 60, "swapon": 224, "swapoff": 225, "reboot": 142, "syslog": 116},
        "sched_setaffinity": 122,
    },
}
# Calls with the same number on every machine.
_REFUSED_NEW = {
    **{"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433},
    **{"mount_setattr": 442, "quotactl_fd": 443},
}
# Calls that fail with ENOSYS, as on a kernel without them, so that programs use other calls instead. No figure of a
# process or of the machine counts the pages of memfd_secret, so they would be without a limit.
_ABSENT = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "memfd_secret": 447}


@dataclass(frozen=True, slots=True)
class _Machine:
    architecture: int
    ioctl: int
    fcntl: int
    socket: int
    fallocate: int
    has_x32: bool


_MACHINES = {
    "x86_64": _Machine(0xC000003E, ioctl=16, fcntl=72, socket=41, fallocate=285, has_x32=True),
    "aarch64": _Machine(0xC00000B7, ioctl=29, fcntl=25, socket=198, fallocate=47, has_x32=False),
}


def refused_calls(machine: str = os.uname().machine) -> dict[str, int]:
    """Return the name and number of each call that always fails with EPERM; empty on machines without a filter."""
    return {**_REFUSED[machine], **_REFUSED_NEW} if machine in _REFUSED else {}


def filter_program(machine: str = os.uname().machine) -> bytes:
    """Return the filter as an array of ``struct sock_filter``; empty on machines without a filter.

    Under the filter, programs of another architecture than the machine's own (32-bit programs) do not run.
    """
    facts = _MACHINES.get(machine)
    return b"" if facts is None else b"".join(struct.pack("=HBBI", *fields) for fields in _filter(machine, facts))


def _filter(name: str, machine: _Machine) -> Iterator[tuple[int, int, int, int]]:
    """Yield instructions: ``(operation, skip_if_true, skip_if_false, operand)``. A skip is a number of instructions."""
    absent, refused = _ERRNO | errno.ENOSYS, _ERRNO | errno.EPERM
    yield _LOAD_WORD, 0, 0, _ARCHITECTURE
    yield _JUMP_IF_EQUAL, 1, 0, machine.architecture
    yield _RETURN, 0, 0, absent
    yield _LOAD_WORD, 0, 0, _NUMBER
    if machine.has_x32:
        yield _JUMP_IF_AT_LEAST, 0, 1, _X32_CALLS
        yield _RETURN, 0, 0, absent
    for numbers, answer in ((_ABSENT, absent), (refused_calls(name), refused)):
        for number in numbers.values():
            yield _JUMP_IF_EQUAL, 0, 1, number
            yield _RETURN, 0, 0, answer
    yield _JUMP_IF_EQUAL, 0, 2 * len(_SOCKETS) + 2, machine.socket
    yield _LOAD_WORD, 0, 0, _FIRST_ARGUMENT
    for family in _SOCKETS:
        yield _JUMP_IF_EQUAL, 0, 1, family
        yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT
    yield _JUMP_IF_EQUAL, 0, 5, machine.fallocate
    yield _LOAD_WORD, 0, 0, _SECOND_ARGUMENT
    yield _JUMP_IF_ANY_BIT, 2, 0, _PUNCH_HOLE  # a hole needs both modes, and gives space back
    yield _JUMP_IF_ANY_BIT, 0, 1, _KEEP_SIZE
    yield _RETURN, 0, 0, _ERRNO | errno.EOPNOTSUPP
    yield _RETURN, 0, 0, _ALLOW
    for call, requests in ((machine.fcntl, _LEASES), (machine.ioctl, _TERMINAL_REQUESTS)):
        yield _JUMP_IF_EQUAL, 0, 2 * len(requests) + 2, call
        yield _LOAD_WORD, 0, 0, _SECOND_ARGUMENT
        for request in requests:
            yield _JUMP_IF_EQUAL, 0, 1, request
            yield _RETURN, 0, 0, refused
        yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _ALLOW


if __name__ == "__main__":
    sys.stdout.buffer.write(filter_program())
