"""The gateway, which finds a request's sandbox, checks the request's token, and forwards the request.

Protected sandboxes ask for a JWT at every port. A refusal then has the text of OpenKruise's gateway. A sandbox
created with E2B's ``allowPublicTraffic: false`` asks for a token of its own at every port except envd's port, because
envd itself checks another token. A refusal then is JSON.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from ...protocol.addresses import SandboxTarget, sandbox_prefix
from ...protocol.names import ENVD_PORT, TRAFFIC_TOKEN_HEADER
from ..sandboxes.lifecycle import State
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.sockets import PortClosedError
from ..traffic_tokens import ForeignTokenError, TokenRefusedError, TrafficTokens
from ..unix_http import Exchange
from .errors import DataPlaneErrors
from .http import forward
from .whole_paths import Paths

_RESERVED = frozenset({"/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade"})
_TOKEN_HEADER = TRAFFIC_TOKEN_HEADER.encode()

Lookup = Callable[[str], Sandbox | None]
ResumeForTraffic = Callable[[Sandbox], Awaitable[bool]]


class Gateway:
    """The server of requests whose target is a sandbox.

    ``lookup`` finds a running or paused sandbox in memory. ``resume_for_traffic`` resumes a paused sandbox that has
    ``autoResume``, and returns whether the sandbox runs now. ``tokens`` checks the tokens of protected sandboxes.
    ``errors`` writes the answers to requests that get none from a sandbox.
    If ``finds_whole_paths`` is true, applications that expect the prefix of private paths get paths with the prefix.
    """

    def __init__(
        self,
        lookup: Lookup,
        resume_for_traffic: ResumeForTraffic,
        tokens: TrafficTokens,
        errors: DataPlaneErrors | None = None,
        *,
        finds_whole_paths: bool = True,
    ) -> None:
        self._lookup = lookup
        self._resume_for_traffic = resume_for_traffic
        self._tokens = tokens
        self.errors = errors or DataPlaneErrors()
        self._finds_whole_paths = finds_whole_paths

    async def serve(self, target: SandboxTarget, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward or refuse one request. Return when the answer or, for a WebSocket, the connection has ended."""
        tokens, scope = _take_tokens(scope)
        refused = await self._forward(target, tokens, scope, receive, send)
        if refused is not None:
            await refused(scope, receive, send)

    async def _forward(
        self, target: SandboxTarget, tokens: list[bytes], scope: Scope, receive: Receive, send: Send
    ) -> Response | None:
        path = target.path.partition("?")[0]
        if target.port == ENVD_PORT and path in _RESERVED:
            return self.errors.reserved_route(path)
        if is_worker_of_other_ports(target, scope):
            return self.errors.worker_of_other_ports(scope["raw_path"].decode("latin-1"))
        not_found = partial(self.errors.sandbox_not_found, target.sandbox_id)
        sandbox = self._lookup(target.sandbox_id)
        if sandbox is None:
            return not_found()
        if (refused := self._refusal(sandbox, target.port, tokens)) is not None:
            return refused
        if sandbox.state is not State.RUNNING and not await self._resume_for_traffic(sandbox):
            return not_found()
        exchanges: list[Exchange] = []

        async def connect() -> Exchange:
            exchanges.append(Exchange(await sandbox.process.connect(target.port)))
            return exchanges[-1]

        try:
            exchange = await connect()
        except PortClosedError:
            sandbox.process.whole_paths.discard(target.port)
            return self.errors.port_not_open(target.sandbox_id, target.port)
        except OSError:
            return not_found()  # the sandbox's program has just ended, and its state does not say so yet
        try:
            cause = await forward(exchange, self._paths(target, sandbox, scope), connect, scope, receive, send)
        finally:
            for exchange in exchanges:
                if exchange.reusable:
                    sandbox.process.keep(target.port, exchange.connection)
                else:
                    exchange.close()
        if cause is None:
            return None
        if sandbox.state is not State.RUNNING:
            return not_found()
        return self.errors.bad_answer(sandbox.id, target.port, cause)

    def _refusal(self, sandbox: Sandbox, port: int, tokens: list[bytes]) -> Response | None:
        if sandbox.protected:
            return _refusal_of_protected(sandbox, tokens, self._tokens)
        if sandbox.traffic_token is None or port == ENVD_PORT:
            return None
        if not tokens:
            return self.errors.traffic_token_missing(sandbox.id, TRAFFIC_TOKEN_HEADER)
        if len(tokens) != 1 or not hmac.compare_digest(tokens[0], sandbox.traffic_token.encode()):
            return self.errors.traffic_token_invalid(sandbox.id, TRAFFIC_TOKEN_HEADER)
        return None

    def _paths(self, target: SandboxTarget, sandbox: Sandbox, scope: Scope) -> Paths:
        query = scope["query_string"]
        asked = scope["raw_path"] + (b"?" + query if query else b"")
        ports = sandbox.process.whole_paths if self._finds_whole_paths else None
        return Paths(target.path.encode("latin-1"), asked, routed_prefix(target, scope), target.port, ports)


def _take_tokens(scope: Scope) -> tuple[list[bytes], Scope]:
    """Return the traffic tokens of a request, and the request without the tokens, which no sandbox may see."""
    tokens = [value for name, value in scope["headers"] if name == _TOKEN_HEADER]
    if not tokens:
        return tokens, scope
    return tokens, {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != _TOKEN_HEADER]}


def _refusal_of_protected(sandbox: Sandbox, tokens: list[bytes], issuer: TrafficTokens) -> Response | None:
    if len(tokens) != 1:  # of several tokens, none counts
        return _forbidden("invalid or missing traffic access token")
    try:
        issuer.check(tokens[0].decode("latin-1"), sandbox.id, sandbox.uid)
    except ForeignTokenError:
        return _forbidden("traffic access token does not match sandbox")
    except TokenRefusedError:
        return _forbidden("invalid or missing traffic access token")
    return None


def _forbidden(why: str) -> Response:
    # The SDK does not depend on this text: no release looks for words in a 403 (e2b 2.8.0 ... 2.63.0).
    return PlainTextResponse(f"forbidden: {why}", status_code=403)


def _is_private(target: SandboxTarget, scope: Scope) -> bool:
    # A part of the path has named the sandbox. On a native host, an application may have paths that begin alike.
    asked: bytes = scope["raw_path"]
    return asked != target.path.partition("?")[0].encode("latin-1")


def is_worker_of_other_ports(target: SandboxTarget, scope: Scope) -> bool:
    """Return whether a browser asks for a service worker with scope ``/kruise/<id>/``, at ``/kruise/<id>/<port>``."""
    # Browsers send this header for the script of a service worker, and let no page set it.
    fetched = any(name == b"service-worker" for name, _ in scope["headers"])
    return fetched and _is_private(target, scope) and scope["raw_path"].count(b"/") == 3


def routed_prefix(target: SandboxTarget, scope: Scope) -> bytes:
    """Return the prefix that path routing took off the path, if any. Paths in the answer's headers need the prefix."""
    if not _is_private(target, scope):
        return b""
    return sandbox_prefix(target.sandbox_id, target.port).encode("latin-1")
