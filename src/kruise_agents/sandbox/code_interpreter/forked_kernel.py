"""A forked process that has a kernel's modules loaded, and waits to become the first Jupyter kernel.

The sandbox program forks this process early, while the program has one thread, no event loop, and no secrets in memory.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...protocol.names import INTERNAL_VARIABLES
from ..linux.process import close_all_but

_ORDER_BYTES = 65536
FIRST_VARIABLES = frozenset({"HOME", "LOGNAME", "PATH", "USER", *INTERNAL_VARIABLES})
"""The variables of a first kernel. Any other could change how Python or the C library starts, and both have started."""
_VARIABLES = FIRST_VARIABLES | {"IPYTHONDIR"}


@dataclass(frozen=True, slots=True)
class KernelOrder:
    """The command and the environment of the kernel that a fork is to become."""

    command: list[str]
    environment: dict[str, str]


class WaitingKernel:
    """The parent's handle on a fork that waits to become a kernel. The fork can be used once, or dropped."""

    def __init__(self, pid: int, orders: socket.socket) -> None:
        self.pid = pid
        self._orders: socket.socket | None = orders

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Return True if the fork is still available and can become a kernel with this environment."""
        return self._orders is not None and _VARIABLES.issuperset(environment)

    def become(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path, output: int) -> ForkedProcess:
        """Turn the fork into the kernel of ``command``, which writes its output to the descriptor ``output``.

        Raises OSError if the fork has ended. A fork can be used only once, even if this call fails.
        """
        orders, self._orders = self._orders, None
        assert orders is not None
        order = {"command": list(command), "environment": dict(environment), "cwd": str(cwd)}
        try:
            with orders:
                socket.send_fds(orders, [json.dumps(order).encode()], [output])
        except OSError:
            os.waitpid(self.pid, 0)
            raise
        return ForkedProcess(self.pid)

    def drop(self) -> None:
        if self._orders is not None:
            self._orders.close()
            self._orders = None
            os.waitpid(self.pid, 0)


@dataclass(frozen=True, slots=True)
class ForkedProcess:
    """A forked child process, with the attributes of ``subprocess.Popen`` that :class:`.KernelProcess` uses."""

    pid: int

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def fork() -> WaitingKernel | KernelOrder:
    """Fork this process. In the parent, return a :class:`WaitingKernel` at once.

    In the child, return the parent's order when the order comes. Exit if the parent drops the fork or ends.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        theirs.close()
        return WaitingKernel(pid, ours)
    # Code in the sandbox runs in the kernel, and must not use the descriptors that the manager passed to the program.
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
