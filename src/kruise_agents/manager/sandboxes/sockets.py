"""The Unix sockets between the manager and a sandbox.

The manager makes the listening sockets and hands them to the sandbox's program. The path of a Unix socket is limited to
107 bytes, but the path of a state folder can be longer. So the manager opens the folder of the sockets, and names the
sockets by the short path ``/proc/self/fd/<descriptor>/<name>``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...protocol.control import RELAY_CLOSED, RELAY_OPEN, RELAY_SOCKET, SERVED_PORTS, encode_port

_BACKLOG = 4096
CONNECT_SECONDS = 30.0
_RETRY_SECONDS = 0.005
_SEND_BUFFER = 1024 * 1024
"""Bytes, of which Linux commonly grants 416 KiB. The default takes no whole piece of a large upload."""


class PortClosedError(Exception):
    """No program in the sandbox accepts connections on the port."""


def listen(folder: Path, name: str) -> socket.socket:
    """Make the inheritable listening socket ``name`` in ``folder``, in place of an older socket of that name."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    (folder / name).unlink(missing_ok=True)
    with _short(folder, name) as path:
        listener.bind(path)
    listener.listen(_BACKLOG)
    listener.set_inheritable(True)
    return listener


async def connect(folder: Path, name: str, patience: float = CONNECT_SECONDS) -> socket.socket:
    """Connect to the socket ``name`` in ``folder``. While the listen queue is full, wait up to ``patience`` seconds.

    Raises BlockingIOError if the queue stays full, another OSError if the program is gone.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        with _short(folder, name) as path:
            await _connect_when_there_is_room(connection, path, patience)
    except BaseException:
        connection.close()
        raise
    return connection


async def _connect_when_there_is_room(connection: socket.socket, path: str, patience: float) -> None:
    """Connect, and retry while the listen queue is full: no event tells when the queue has room again."""
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.connect(path)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


async def connect_port(
    folder: Path, port: int, served: frozenset[int], patience: float = CONNECT_SECONDS
) -> socket.socket:
    """Connect to a port of a sandbox, through the port's own socket if ``served`` has the port, else through the relay.

    Args:
        patience: Seconds to wait for the connection, and again for the relay's answer.

    Raises:
        PortClosedError: No program listens on the port, or no program accepts the connection in time.
        OSError: The sandbox's own program, which passes the connection on, has ended or closed the connection.
    """
    try:
        connection = await connect(folder, SERVED_PORTS[port] if port in served else RELAY_SOCKET, patience)
    except BlockingIOError:
        raise PortClosedError(port) from None  # the sandbox's program runs, but does not accept
    if port in served:
        return connection
    try:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(patience):
            await loop.sock_sendall(connection, encode_port(port))
            answer = await loop.sock_recv(connection, 1)
    except TimeoutError:
        connection.close()
        raise PortClosedError(port) from None  # a program may listen, but does not accept
    except BaseException:
        connection.close()
        raise
    if answer == RELAY_OPEN:
        return connection
    connection.close()
    if answer == RELAY_CLOSED:
        raise PortClosedError(port)
    raise ConnectionResetError("the sandbox's relay closed the connection")


@contextmanager
def _short(folder: Path, name: str) -> Iterator[str]:
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
