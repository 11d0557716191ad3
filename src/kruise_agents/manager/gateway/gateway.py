"""The gateway: looks up the sandbox of a parsed request, connects to its port and forwards the request."""

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
ResumeForTraffic = Callable[[Sandbox], Awaitable[bool]]


class Gateway:
    """An ASGI endpoint for requests whose target is a sandbox.

    Args:
        lookup: Returns the running or paused sandbox of an id from memory, or None.
        resume_for_traffic: Resumes a paused sandbox that has ``autoResume``, and returns whether it runs now.
        tokens: The issuer of the traffic access tokens of protected sandboxes.
    """

    def __init__(self, lookup: Lookup, resume_for_traffic: ResumeForTraffic, tokens: TrafficTokens) -> None:
        self._lookup = lookup
        self._resume_for_traffic = resume_for_traffic
        self._tokens = tokens

    async def serve(self, target: SandboxTarget, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request to its end, which for a WebSocket is the end of the connection."""
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
        if sandbox.state is not State.RUNNING and not await self._resume_for_traffic(sandbox):
            await errors.sandbox_not_found(target.sandbox_id)(scope, receive, send)
            return
        try:
            connection = await sandbox.program.connect(target.port)
        except PortClosedError:
            await errors.port_not_open(target.sandbox_id, target.port)(scope, receive, send)
            return
        except OSError:
            # The sandbox's program has just ended, and its state does not say so yet.
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
    """Return what path routing took off the path; headers that name a path must get it back."""
    if not is_private_path(scope["raw_path"].decode("latin-1")):
        return b""
    return f"{PREFIX}/{target.sandbox_id}/{target.port}".encode("latin-1")
