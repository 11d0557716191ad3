"""A fork of this program that waits to become the first kernel, for which it has imported everything.

It is made while the program is young: with one thread, no event loop, and nothing in its memory that code in the
sandbox should not read.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kruise_agents.sandbox.linux.descriptors import close_all_but

_ORDER_BYTES = 65536
_VARIABLES = frozenset({"HOME", "IPYTHONDIR", "LOGNAME", "PATH", "USER"})
"""Others could change how Python starts, or the C library, and both have started."""

__all__ = ["Birth", "WaitingKernel", "fork"]


@dataclass(frozen=True, slots=True)
class Birth:
    """In the fork: what it is to become."""

    command: list[str]
    environment: dict[str, str]


class WaitingKernel:
    """In the program: the fork, until it is used or dropped."""

    def __init__(self, pid: int, orders: socket.socket) -> None:
        self.pid = pid
        self._orders: socket.socket | None = orders

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether it is still there and can become a kernel with this environment."""
        return self._orders is not None and _VARIABLES.issuperset(environment)

    def become(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path, output: int) -> ForkedProcess:
        """Let it go on as the process of this command.

        Parameters:
            output: the descriptor for its standard output and error.

        Raises:
            OSError: it has ended.
        """
        assert self._orders is not None
        order = {"command": list(command), "environment": dict(environment), "cwd": str(cwd)}
        with self._orders:
            socket.send_fds(self._orders, [json.dumps(order).encode()], [output])
        self._orders = None
        return ForkedProcess(self.pid)

    def drop(self) -> None:
        """End it, if it still waits."""
        if self._orders is not None:
            self._orders.close()
            self._orders = None
            os.waitpid(self.pid, 0)


@dataclass(frozen=True, slots=True)
class ForkedProcess:
    """A child of this process, as far as ``subprocess.Popen`` is needed."""

    pid: int

    def wait(self) -> int:
        """Reap it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def fork() -> WaitingKernel | Birth:
    """Make the fork. Returns twice: at once in the program, and in the fork when it is used."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        theirs.close()
        return WaitingKernel(pid, ours)
    close_all_but({0, 1, 2, theirs.fileno()})  # a kernel is anybody's, and what the manager has handed over is not
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
    return Birth(order["command"], order["environment"])
