"""A fork of the sandbox's program that waits to become the first kernel, with all of a kernel's imports done.

The fork is made while the program is young: it has one thread, no event loop, and nothing in its memory that code in
the sandbox must not read.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..linux.process import close_all_but

_ORDER_BYTES = 65536
# Any other variable could change how Python or the C library starts, and both have started already.
_VARIABLES = frozenset({"HOME", "IPYTHONDIR", "LOGNAME", "PATH", "USER"})


@dataclass(frozen=True, slots=True)
class KernelOrder:
    """In the fork: the command and environment of the kernel that it becomes."""

    command: list[str]
    environment: dict[str, str]


class WaitingKernel:
    """In the program: the fork, until it is used or dropped."""

    def __init__(self, pid: int, orders: socket.socket) -> None:
        self.pid = pid
        self._orders: socket.socket | None = orders

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Return True if the fork still waits and can become a kernel with this environment."""
        return self._orders is not None and _VARIABLES.issuperset(environment)

    def become(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path, output: int) -> ForkedProcess:
        """Turn the fork into a command that writes to ``output``; raise OSError if the fork has ended."""
        assert self._orders is not None
        order = {"command": list(command), "environment": dict(environment), "cwd": str(cwd)}
        with self._orders:
            socket.send_fds(self._orders, [json.dumps(order).encode()], [output])
        self._orders = None
        return ForkedProcess(self.pid)

    def drop(self) -> None:
        if self._orders is not None:
            self._orders.close()
            self._orders = None
            os.waitpid(self.pid, 0)


@dataclass(frozen=True, slots=True)
class ForkedProcess:
    """A child of this process, with the part of ``subprocess.Popen`` that a kernel needs."""

    pid: int

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def fork() -> WaitingKernel | KernelOrder:
    """Make the fork. Return at once in the program, and a second time in the fork when it is used."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        theirs.close()
        return WaitingKernel(pid, ours)
    # Anybody may use the kernel, but not the descriptors that the manager has passed to the program.
    close_all_but({0, 1, 2, theirs.fileno()})
    ours.detach()
    with theirs:
        data, descriptors, _, _ = socket.recv_fds(theirs, _ORDER_BYTES, 1)
    if not data:
        os._exit(0)
    order = json.loads(data)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number, descriptor in enumerate((nothing, descriptors[0], descriptors[0])):
        os.dup2(descriptor, number)
    for descriptor in (nothing, descriptors[0]):
        os.close(descriptor)
    os.chdir(order["cwd"])
    return KernelOrder(order["command"], order["environment"])
