"""The listening sockets of the manager's port."""

from __future__ import annotations

import contextlib
import errno
import socket

from ...errors import ConfigurationError
from .admission import Admission, Listener

_LOOPBACK = ("127.0.0.1", "::1")
_TRIES = 20


def bind(host: str | None, port: int, *, tls: bool = False) -> list[socket.socket]:
    """Bind ``port`` on ``host``. If ``host`` is None, bind ``127.0.0.1`` and ``::1``, or the one that this machine has.

    ``localhost`` may mean either of these two addresses, and clients differ in which address they try first. Port 0
    means any free port. A failure raises a ConfigurationError with the reason. The sockets share bounds on connections.
    """
    admission = Admission.within_descriptors(tls=tls)
    if host is not None:
        return [_bind_address(host, port, admission)]
    for _ in range(_TRIES):
        try:
            return _bind_loopback(port, admission)
        except _InUseError:
            if port != 0:
                raise
    raise ConfigurationError("no port is free on both 127.0.0.1 and ::1; choose one with --port")


def own_address(host: str) -> str | None:
    """Return this machine's address of the kind of ``host``, by which it reaches other networks, or None."""
    family, other = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.connect((other, 9))  # looks up the route, and sends nothing
        return str(asking.getsockname()[0])
    return None


def _bind_loopback(port: int, admission: Admission) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    missing: ConfigurationError | None = None
    for host in _LOOPBACK:
        try:
            listeners.append(_bind_address(host, port, admission))
        except _InUseError:
            for listener in listeners:
                listener.close()
            raise
        except ConfigurationError as error:  # a machine without one of the two kinds
            missing = missing or error
        else:
            port = listeners[0].getsockname()[1]
    if missing is not None and not listeners:
        raise missing
    return listeners


class _InUseError(ConfigurationError):
    """The address and port are already in use."""


def _bind_address(host: str, port: int, admission: Admission) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigurationError(f"cannot listen on host {host!r}: {error.strerror}") from error
    try:
        listener = Listener(family, kind, protocol, admission)
    except OSError as error:  # a kernel without IPv6
        raise _explained(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _notice_dead_peers(listener)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _explained(host, port, error) from error
    return listener


def _notice_dead_peers(listener: socket.socket) -> None:
    """Set keepalive, which connections inherit, to end idle connections about two minutes after a client vanished."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def _explained(host: str, port: int, error: OSError) -> ConfigurationError:
    where = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
    if error.errno == errno.EADDRINUSE:
        return _InUseError(
            f"{where} is in use by another program; stop it, or choose another port with --port (0: any free one)"
        )
    if error.errno == errno.EACCES:
        return ConfigurationError(f"{where} needs more rights to listen on; choose a port from 1024 on with --port")
    hint = "; --host takes an address of this machine" if error.errno == errno.EADDRNOTAVAIL else ""
    return ConfigurationError(f"cannot listen on {where}: {error.strerror}{hint}")
