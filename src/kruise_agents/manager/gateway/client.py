"""The connection of the client whose request is forwarded, as the gateway sees the connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from starlette.types import Scope

from .tunnel import Stream

_CLIENT = "kruise_agents.client"


class Client(Protocol):
    """A connection that serves one request at a time. All facts are about the current request."""

    @property
    def handshake(self) -> bool:
        """Return whether the request is the handshake of a WebSocket."""

    @property
    def complete(self) -> bool:
        """Return whether all of the request has come, so that the next ``receive()`` returns the rest of the body."""

    @property
    def left(self) -> bool:
        """Return whether nobody waits for an answer any more."""

    def when_left(self, act: Callable[[], None] | None) -> None:
        """Call ``act`` when the client leaves, or now if the client has left. Each call replaces the one before."""

    def take_over(self) -> Stream:
        """Return the connection as a stream, and leave it to the caller.

        Raises ConnectionResetError if the client has left, or has sent more before the answer than the buffer holds.
        """


def attach(client: Client, scope: Scope) -> None:
    """Put the client's connection into the scope of a request, where :func:`client_of` finds it."""
    scope["extensions"] = {_CLIENT: client}


def client_of(scope: Scope) -> Client:
    """Return the client that has sent a request."""
    client: Client = scope["extensions"][_CLIENT]
    return client
