"""Tunnels for clients that use the proxy as ``HTTPS_PROXY``, and for https on a port that also speaks plain http.

Names of the proxy end at its own TLS server, which has a certificate of the local authority for each. So clients with
fixed addresses such as ``https://api.your.domain`` need neither DNS nor another setting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

from ..manager.gateway.tunnel import Stream, join
from ..manager.http.admission import set_idle
from ..manager.http.connection import GuardedHttpProtocol
from ..manager.http.request_head import RequestHead
from ..manager.request_log import RequestRecord, new_request_id
from .hosts import OwnNames

_CONNECT_SECONDS = 15.0
_TLS_HANDSHAKE = 0x16
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class TunnelRefusedError(Exception):
    """A tunnel that is not made, with the ``status`` and the message of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Tunnels:
    """The rule for tunnels.

    Attributes:
        names: the names that end here.
        ports: the ports of these names that end here.
        tls_port: the port of the own TLS server, on 127.0.0.1.
        others: whether tunnels to other hosts are made too.
    """

    names: OwnNames
    ports: Collection[int]
    tls_port: int
    others: bool

    async def open(self, target: str) -> Stream:
        """Return a connection to the other end of a tunnel to ``target``. Raises TunnelRefusedError."""
        host, _, port = target.rpartition(":")
        if self.names.include(host) and int(port) in self.ports:
            return await self.to_own_server()
        if not self.others:
            raise TunnelRefusedError(
                403,
                f"kruise-agents proxy makes tunnels to its own domain only, and not to {target}. Put the host into "
                f"NO_PROXY, or start the proxy with --connect-others\n",
            )
        try:
            return await _connected(host.strip("[]"), int(port))
        except OSError as error:
            reason = "no connection in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise TunnelRefusedError(502, f"kruise-agents proxy cannot connect to {target}: {reason}\n") from error

    async def to_own_server(self) -> Stream:
        return await _connected("127.0.0.1", self.tls_port)


async def _connected(host: str, port: int) -> Stream:
    async with asyncio.timeout(_CONNECT_SECONDS):
        return Stream(*await asyncio.open_connection(host, port))


class TunnelProtocol(GuardedHttpProtocol):
    """A client's connection that may become a tunnel. A subclass sets ``tunnels``."""

    connects = True
    tunnels: ClassVar[Tunnels]
    _fresh = True

    def data_received(self, data: bytes) -> None:
        fresh, self._fresh = self._fresh, False
        if fresh and data[0] == _TLS_HANDSHAKE:
            self._begin(None, data)
        else:
            super().data_received(data)

    def _start_request(self, head: RequestHead, rest: bytes) -> None:
        if head.method == b"CONNECT":
            self._begin(head.target.decode(), rest)
        else:
            super()._start_request(head, rest)

    def _begin(self, target: str | None, received: bytes) -> None:
        """Begin a tunnel to ``target``, or to the own TLS server. ``received`` are its first bytes."""
        self._cancel_deadline()
        self._buffer.clear()
        set_idle(self.transport, False)
        self.flow.pause_reading()
        task = self.loop.create_task(self._tunnel(target, received))
        self.tasks.add(task)  # so that the end of the server ends the tunnel
        task.add_done_callback(self.tasks.discard)

    async def _tunnel(self, target: str | None, received: bytes) -> None:
        try:
            other = await (self.tunnels.to_own_server() if target is None else self.tunnels.open(target))
        except TunnelRefusedError as refused:
            self._refuse(refused.status, str(refused))
            return
        if self.transport.is_closing():
            other.writer.close()
            return
        if target is not None:
            RequestRecord(new_request_id(), method="CONNECT", status=HTTPStatus.OK).write()
            self.transport.write(_ESTABLISHED)
        await join(self._detach(received), other)
