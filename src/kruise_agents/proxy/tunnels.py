"""Tunnels for clients that use the proxy as ``HTTPS_PROXY``.

A tunnel to a name of the proxy ends here: the same connection goes on with a TLS handshake, and the local authority has
a certificate for each name. So clients with fixed addresses such as ``https://api.your.domain`` need neither DNS nor
another setting.
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
from ..serving import JoinedWrites
from .hosts import OwnNames

_CONNECT_SECONDS = 15.0
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
        others: whether tunnels to other hosts are made too.
    """

    names: OwnNames
    ports: Collection[int]
    others: bool

    def end_here(self, target: str, address: str) -> bool:
        """Return whether a tunnel ends here, for a client that has connected to ``address``."""
        host, _, port = target.rpartition(":")
        return int(port) in self.ports and self.names.end_at(host, address)

    async def open(self, target: str) -> Stream:
        """Return a connection to another host. Raises TunnelRefusedError."""
        if not self.others:
            raise TunnelRefusedError(
                403,
                f"kruise-agents proxy makes tunnels to its own domain only, and not to {target}. Put the host into "
                f"NO_PROXY, or start the proxy with --connect-others\n",
            )
        host, _, port = target.rpartition(":")
        try:
            return await _connected(host.strip("[]"), int(port))
        except (OSError, UnicodeError) as error:
            text = f"kruise-agents proxy cannot connect to {target}: {_reason(error)}\n"
            raise TunnelRefusedError(502, text) from error


async def _connected(host: str, port: int) -> Stream:
    async with asyncio.timeout(_CONNECT_SECONDS):
        return Stream(*await asyncio.open_connection(host, port))


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "this is not a host name"
    return "no connection in time" if isinstance(error, TimeoutError) else error.strerror or str(error)


class TunnelProtocol(GuardedHttpProtocol):
    """A client's connection that may become a tunnel. A subclass sets ``tunnels``."""

    connects = True
    tunnels: ClassVar[Tunnels]

    def _start_request(self, head: RequestHead, rest: bytes) -> None:
        if head.method != b"CONNECT":
            super()._start_request(head, rest)
            return
        target = head.target.decode()
        self._head_begun = False
        self._buffer.clear()
        self._cancel_deadline()
        if self.tunnels.end_here(target, self.transport.get_extra_info("sockname")[0]):
            self._establish()
            self._scheme_known = False  # what follows is https or http, as on a new connection
            self._set_deadline(self.head_seconds, self.transport.close)
            if rest:
                self.data_received(rest)
            return
        set_idle(self.transport, False)
        self.flow.pause_reading()
        task = self.loop.create_task(self._tunnel(target, rest))
        self.tasks.add(task)  # so that the end of the server ends the tunnel
        task.add_done_callback(self.tasks.discard)

    async def _tunnel(self, target: str, received: bytes) -> None:
        try:
            other = await self.tunnels.open(target)
        except TunnelRefusedError as refused:
            self._refuse(refused.status, str(refused))
            return
        if self.transport.is_closing():
            other.writer.close()
            return
        self._establish()
        await join(self._detach(received), other)

    def _establish(self) -> None:
        RequestRecord(new_request_id(), method="CONNECT", status=HTTPStatus.OK).write()
        assert isinstance(self.transport, JoinedWrites)
        self.transport.write(_ESTABLISHED)
        self.transport.flush()
