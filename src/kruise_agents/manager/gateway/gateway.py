"""From a parsed request to the right sandbox: look up, connect, forward."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from ...protocol import SandboxTarget
from ...protocol.addresses import PREFIX, is_private_path
from ...protocol.names import ENVD_PORT
from ..sandboxes.lifecycle import State
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.sockets import PortClosedError
from ..traffic_tokens import TrafficTokens
from . import errors
from .http import forward
from .traffic_tokens import refusal, take_tokens

_RESERVED = frozenset({"/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade"})

Lookup = Callable[[str], Sandbox | None]
Awaken = Callable[[Sandbox], Awaitable[bool]]


class Gateway:
    """An ASGI endpoint for requests whose target is a sandbox.

    Parameters:
        lookup: gives the sandbox of an id, running or paused, from memory, or None.
        awaken: resumes it where it wants that; whether it runs now.
        tokens: who issued the traffic access tokens of protected sandboxes.
    """

    def __init__(self, lookup: Lookup, awaken: Awaken, tokens: TrafficTokens) -> None:
        self._lookup = lookup
        self._awaken = awaken
        self._tokens = tokens

    async def serve(self, target: SandboxTarget, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request to its end; that of a WebSocket handshake is the end of the connection."""
        path = target.path.partition("?")[0]
        if target.port == ENVD_PORT and path in _RESERVED:
            await errors.reserved_route(path)(scope, receive, send)
            return
        sandbox = self._lookup(target.sandbox_id)
        if sandbox is None:
            await errors.sandbox_not_found(target.sandbox_id)(scope, receive, send)
            return
        tokens, scope = take_tokens(scope)
        if (refused := refusal(sandbox, target.port, tokens, self._tokens)) is not None:
            await refused(scope, receive, send)
            return
        if sandbox.state is not State.RUNNING and not await self._awaken(sandbox):
            await errors.sandbox_not_found(target.sandbox_id)(scope, receive, send)
            return
        try:
            connection = await sandbox.program.connect(target.port)
        except PortClosedError:
            await errors.port_not_open(target.sandbox_id, target.port)(scope, receive, send)
            return
        except OSError:
            # Its program ended a moment ago; the registry will know in another.
            await errors.sandbox_not_found(target.sandbox_id)(scope, receive, send)
            return
        cause = await forward(connection, target, _prefix(target, scope), scope, receive, send)
        if cause is None:
            return
        if sandbox.state is not State.RUNNING:
            await errors.sandbox_not_found(target.sandbox_id)(scope, receive, send)
            return
        await errors.bad_answer(target.sandbox_id, target.port, cause)(scope, receive, send)


def _prefix(target: SandboxTarget, scope: Scope) -> bytes:
    """What path routing took off the path, and must come back in headers that name one."""
    if not is_private_path(scope["raw_path"].decode("latin-1")):
        return b""
    return f"{PREFIX}/{target.sandbox_id}/{target.port}".encode("latin-1")
