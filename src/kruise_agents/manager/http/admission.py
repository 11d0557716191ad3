"""Bounds on the connections to the manager's port, for the manager as a whole and for each peer.

A connection takes a descriptor before its client has shown a key, and a manager without free descriptors serves nobody.
So a listener accepts a bounded number of connections. When a bound is reached, the connection that has been idle for
the longest time makes room for the new one. If no connection is idle, the new one is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import resource
import socket
import time
from collections import Counter, defaultdict
from typing import Any, ClassVar

# An idle connection takes 8 KB of the manager's memory, and 300 KB with TLS: asyncio's buffers.
_MOST_CONNECTIONS = 8192
_MOST_TLS_CONNECTIONS = 2048
_SHARE = 3  # of the descriptors, for connections; sandboxes and the connections into sandboxes need the others
_PEERS_SHARE = 2  # of the connections, for one peer
_KEPT_FREE = 8  # the part of the descriptors that a new connection must leave free
_LOG_SECONDS = 60.0
_MOST_REFUSED_AT_ONCE = 100

logger = logging.getLogger(__name__)


class Admission:
    """Bounds on all ``connections`` of a manager: at most ``most``, and at most ``most_per_peer`` for each peer."""

    def __init__(self, most: int, most_per_peer: int, most_descriptors: int, connections: str = "connections") -> None:
        self.most = most
        self.most_per_peer = most_per_peer
        self.closing = False  # True: a connection was shut down since the event loop last served others
        self._most_descriptors = most_descriptors
        self._connections = connections  # their name in the log
        self._counts = Counter[str]()
        # Idle connections, the longest idle one first.
        self._idle: dict[Connection, None] = {}
        self._idle_of: defaultdict[str, dict[Connection, None]] = defaultdict(dict)
        self._events = Counter[str]()
        self._logged_at = -_LOG_SECONDS

    @classmethod
    def within_descriptors(cls, *, tls: bool) -> Admission:
        """Return bounds that suit the number of descriptors that this process may have."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        descriptors = soft if soft != resource.RLIM_INFINITY else _SHARE * _MOST_CONNECTIONS
        most = max(_PEERS_SHARE, min(_MOST_TLS_CONNECTIONS if tls else _MOST_CONNECTIONS, descriptors // _SHARE))
        name = "https connections" if tls else "connections"
        return cls(most, most // _PEERS_SHARE, descriptors - descriptors // _KEPT_FREE, name)

    def admit(self, connection: Connection) -> bool:
        """Count a new connection as idle and return True, or return False if there is no room for the connection."""
        peer = connection.peer
        if self._counts[peer] >= self.most_per_peer:
            admitted = self._make_room(self._idle_of[peer])
        elif self._counts.total() >= self.most or connection.fileno() >= self._most_descriptors:
            admitted = self._make_room(self._idle_of[peer] or self._idle)
        else:
            admitted = True
        if not admitted:
            self.report("refused", peer)
            self._forget_peer(peer)
            return False
        self._counts[peer] += 1
        self.set_idle(connection, True)
        return True

    def set_idle(self, connection: Connection, idle: bool) -> None:
        self._idle.pop(connection, None)
        self._idle_of[connection.peer].pop(connection, None)
        if idle:
            self._idle[connection] = None
            self._idle_of[connection.peer][connection] = None

    def forget(self, connection: Connection) -> None:
        """Count a connection no longer: it is closed, or about to be."""
        self.set_idle(connection, False)
        self._counts[connection.peer] -= 1
        self._forget_peer(connection.peer)

    def report(self, event: str, peer: str) -> None:
        """Log what happened to connections, at most once a minute."""
        self._events[event] += 1
        if time.monotonic() - self._logged_at < _LOG_SECONDS:
            return
        self._logged_at = time.monotonic()
        events = ", ".join(f"{number} {name}" for name, number in sorted(self._events.items()))
        self._events.clear()
        logger.warning(
            "too many %s, the last one from %s: %s; the manager takes %d, and %d from one address",
            *(self._connections, peer, events, self.most, self.most_per_peer),
        )

    def _make_room(self, candidates: dict[Connection, None]) -> bool:
        if not candidates:
            return False
        oldest = next(iter(candidates))
        self.report("idle ones closed", oldest.peer)
        oldest.end()
        self.closing = True
        return True

    def _forget_peer(self, peer: str) -> None:
        if not self._counts[peer]:
            del self._counts[peer]
            self._idle_of.pop(peer, None)


class Connection(socket.socket):
    """An accepted connection, which each :class:`Admission` that it entered counts until the connection is closed."""

    by_descriptor: ClassVar[dict[int, Connection]] = {}

    def __init__(self, accepted: socket.socket, peer: str) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.peer = peer
        self._admissions: tuple[Admission, ...] = ()

    def enter(self, admission: Admission) -> bool:
        if not admission.admit(self):
            return False
        self._admissions += (admission,)
        self.by_descriptor[self.fileno()] = self
        return True

    def set_idle(self, idle: bool) -> None:
        for admission in self._admissions:
            admission.set_idle(self, idle)

    def end(self) -> None:
        """Shut the connection down. The event loop notices that and closes the connection."""
        self._leave()
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._leave()
        if self.by_descriptor.get(self.fileno()) is self:
            del self.by_descriptor[self.fileno()]
        super().close()

    def _leave(self) -> None:
        admissions, self._admissions = self._admissions, ()
        for admission in admissions:
            admission.forget(self)


class Listener(socket.socket):
    """A listening socket that accepts the connections for which its :class:`Admission` has room."""

    def __init__(self, family: int, kind: int, protocol: int, admission: Admission) -> None:
        super().__init__(family, kind, protocol)
        self._admission = admission
        self._spare: int | None = None  # a descriptor for a moment in which no other is free

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection for which there is room. Raise BlockingIOError when none is waiting."""
        if self._admission.closing:
            # asyncio accepts all waiting connections in one go. What was shut down is only closed after that.
            self._admission.closing = False
            raise BlockingIOError
        for _ in range(_MOST_REFUSED_AT_ONCE):
            self._hold_spare()
            try:
                accepted, address = super().accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or self._spare is None:
                    raise
                self._refuse_without_descriptors(self._spare)
                continue
            connection = Connection(accepted, peer_of(address))
            if connection.enter(self._admission):
                return connection, address
            connection.close()
        raise BlockingIOError  # the event loop comes back after it has served others

    def close(self) -> None:
        super().close()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _hold_spare(self) -> None:
        if self._spare is None:
            with contextlib.suppress(OSError):  # no descriptor is free
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _refuse_without_descriptors(self, spare: int) -> None:
        # asyncio would log a traceback for each connection in the queue. The connection gets the spare descriptor.
        os.close(spare)
        self._spare = None
        try:
            accepted, address = super().accept()  # fails if none is waiting: the kernel looks for a descriptor first
            self._admission.report("refused because no descriptor is free", peer_of(address))
            accepted.close()
        finally:
            self._hold_spare()


def set_idle(transport: asyncio.BaseTransport, idle: bool) -> None:
    """Say whether the connection under a transport may be closed to make room for another connection."""
    connection = connection_of(transport)
    if connection is not None:
        connection.set_idle(idle)


def connection_of(transport: asyncio.BaseTransport) -> Connection | None:
    """Return the accepted connection under a transport, or None if a listener without bounds accepted it."""
    accepted = transport.get_extra_info("socket")
    return Connection.by_descriptor.get(accepted.fileno()) if accepted is not None else None


def peer_of(address: tuple[Any, ...]) -> str:
    """Return a peer's address or, for IPv6, its network of 64 bits, in which one host may use all addresses."""
    host = str(address[0]).partition("%")[0]
    if ":" not in host:
        return host
    return str(ipaddress.ip_network((host, 64), strict=False))


def allow_many_descriptors() -> None:
    """Raise the soft limit of open descriptors, which login shells commonly set to 1024, to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # the hard limit is above what the kernel permits by now
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
