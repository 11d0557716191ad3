"""The paths of applications that expect their prefix in requests, such as Vite with ``--base /kruise/<id>/<port>/``.

The gateway takes the prefix off the path, as OpenKruise's manager does. An application that expects the prefix mostly
answers ``/`` with a redirect to the prefix. The client has asked for just that address, so a browser would be
redirected for ever. The gateway therefore repeats such a request with the whole path. If the application finds that
path, the sandbox's port gets whole paths from then on. This ends when the application does not find a whole path (404),
but finds the same path without the prefix.

Only requests that can be repeated (GET or HEAD, without a body) have this effect. The client gets one of the two
answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..sandboxes.sockets import PortClosedError
from ..unix_http import BadResponseError, Exchange, ResponseHead

_NOT_FOUND = 404
_REFUSALS = (401, 403)
_REDIRECTS = (301, 302, 303, 307, 308)
_SECONDS = 10.0

Ask = Callable[[bytes], Awaitable[tuple[Exchange, ResponseHead]]]
"""A function that sends the request again, with another path, and returns the exchange and the head of the answer."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The two paths of one request, and the ports of its sandbox whose applications get whole paths.

    Attributes:
        stripped: the path and the query without the prefix.
        asked: the path and the query that the client asked for.
        prefix: the part of ``asked`` that is not in ``stripped``; empty if the address names the port in another way.
        ports: the ports that get whole paths; :meth:`better` adds or removes the request's port. None if the gateway
            never sends whole paths.
    """

    stripped: bytes
    asked: bytes
    prefix: bytes
    port: int
    ports: set[int] | None

    @property
    def path(self) -> bytes:
        """The path to send first."""
        return self.asked if self.ports and self.port in self.ports and self._has_both else self.stripped

    async def better(self, head: ResponseHead, ask: Ask) -> tuple[Exchange, ResponseHead] | None:
        """Ask for the other path if the answer ``head`` is doubtful. Return the new answer if it is better, or None."""
        whole = self.path != self.stripped
        doubtful = head.status == _NOT_FOUND if whole else self._leads_to_itself(head)
        if self.ports is None or not (self._has_both and doubtful):
            return None
        try:
            async with asyncio.timeout(_SECONDS):
                exchange, other = await ask(self.stripped if whole else self.asked)
        except (OSError, BadResponseError, PortClosedError):  # a TimeoutError is an OSError
            return None
        if self._is_answer(other) and not (self._leads_below(other) if whole else self._leads_to_itself(other)):
            (self.ports.discard if whole else self.ports.add)(self.port)
            return exchange, other
        return None

    @property
    def _has_both(self) -> bool:
        return bool(self.prefix) and self.asked.startswith(self.prefix + b"/")

    def _leads_to_itself(self, head: ResponseHead) -> bool:
        """Return whether an answer redirects the client to the address that it asked for, and sets no cookie."""
        return head.status in _REDIRECTS and head.all(b"location") == [self.asked] and not head.all(b"set-cookie")

    def _leads_below(self, head: ResponseHead) -> bool:
        """Return whether an answer redirects to a path with the prefix, as applications that expect the prefix do."""
        return head.status in _REDIRECTS and any(
            value.startswith(self.prefix + b"/") for value in head.all(b"location")
        )

    def _is_answer(self, head: ResponseHead) -> bool:
        return 200 <= head.status < 400 or head.status in _REFUSALS
