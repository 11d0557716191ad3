"""A program that changes which addresses a sandbox cannot reach: ``routes.py USER NET [-CIDR] [+CIDR] ...``.

``NET`` is an open descriptor of the network namespace, and ``USER`` is that of the user namespace which owns the
network namespace. ``+`` blocks a range, and ``-`` removes the block. The manager cannot enter the namespaces itself,
because only a process with a single thread may enter a user namespace. This program imports little, to start fast.
"""

from __future__ import annotations

import _socket as socket  # the module `socket` imports six times as much, and nothing of that is needed here
import ctypes
import errno
import os
import struct
import sys

_NEW, _DELETE = 24, 25  # RTM_NEWROUTE, RTM_DELROUTE
_REQUEST, _ACKNOWLEDGE, _REPLACE, _CREATE = 0x1, 0x4, 0x100, 0x400
_MAIN_TABLE, _BY_ADMINISTRATOR, _UNREACHABLE = 254, 4, 7
_DESTINATION = 1
_ERROR = 2
_ROUTE = struct.Struct("=BBBBBBBBI")
_HEADER = struct.Struct("=IHHII")


def main(arguments: list[str]) -> int:
    """Enter the namespaces, and make the changes in the given order. Raises OSError at the first failure."""
    libc = ctypes.CDLL(None, use_errno=True)
    for descriptor in arguments[:2]:
        if libc.setns(int(descriptor), 0) != 0:
            raise OSError(ctypes.get_errno(), "entering the sandbox's network")
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    for change in arguments[2:]:
        _change(kernel, change[0] == "+", change[1:])
    return 0


def _change(kernel: socket.socket, add: bool, network: str) -> None:
    address, _, length = network.partition("/")
    route = _ROUTE.pack(socket.AF_INET, int(length), 0, 0, _MAIN_TABLE, _BY_ADMINISTRATOR, 0, _UNREACHABLE, 0)
    route += struct.pack("=HH", 8, _DESTINATION) + socket.inet_aton(address)
    flags = _REQUEST | _ACKNOWLEDGE | (_REPLACE | _CREATE if add else 0)
    kernel.send(_HEADER.pack(_HEADER.size + len(route), _NEW if add else _DELETE, flags, 1, 0) + route)
    answer = kernel.recv(65536)
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    (code,) = struct.unpack_from("=i", answer, _HEADER.size)
    if kind == _ERROR and code != 0 and not (not add and code == -errno.ESRCH):
        raise OSError(-code, f"the route to {network}: {os.strerror(-code)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
