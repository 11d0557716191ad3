"""The data plane of the proxy, which forwards requests for a port of a sandbox to the manager's private paths."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from ..errors import AddressError
from ..manager.gateway.errors import DataPlaneErrors
from ..manager.gateway.gateway import is_worker_of_other_ports, routed_prefix
from ..manager.gateway.headers import Headers, above_prefix
from ..manager.gateway.http import forward
from ..manager.gateway.whole_paths import Paths
from ..manager.request_log import current_request_id
from ..protocol.addresses import API_PREFIX, SandboxTarget, check_sandbox_id, sandbox_prefix
from ..protocol.names import SANDBOX_ID_HEADER, SANDBOX_PORT_HEADER
from .hosts import OwnNames, host_of
from .tokens import TokenRefusedError, TrafficTokens
from .upstream import UnreachableError, Upstream

_ROUTING = (SANDBOX_ID_HEADER.encode(), SANDBOX_PORT_HEADER.encode())
# What the way to the manager says about itself, and not the application. For localhost, none of it is true.
_OF_THE_WAY = frozenset(
    {b"alt-svc", b"expect-ct", b"public-key-pins", b"public-key-pins-report-only", b"strict-transport-security"}
)


class UpstreamGateway:
    """The server of requests whose target is a sandbox."""

    def __init__(self, upstream: Upstream, names: OwnNames, tokens: TrafficTokens | None) -> None:
        self.errors = DataPlaneErrors()
        self._upstream = upstream
        self._names = names
        self._tokens = tokens

    async def serve(self, target: SandboxTarget, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward or refuse one request. Return when the answer or, for a WebSocket, the connection has ended."""
        refused = self._refusal(target, scope)
        if refused is None:
            refused = await self._forward(target, scope, receive, send)
        if refused is not None:
            await refused(scope, receive, send)

    def _refusal(self, target: SandboxTarget, scope: Scope) -> Response | None:
        if (refused := self._names.refusal(scope)) is not None:
            return refused
        if is_worker_of_other_ports(target, scope):
            return self.errors.worker_of_other_ports(scope["raw_path"].decode("latin-1"))
        try:
            check_sandbox_id(target.sandbox_id)
        except AddressError as error:
            return _json_error(400, target.sandbox_id, str(error))
        return None

    async def _forward(self, target: SandboxTarget, scope: Scope, receive: Receive, send: Send) -> Response | None:
        translated = _Translation(target, scope, self._upstream)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": translated.answer_headers(message["headers"])}
            await send(message)

        request, paths = translated.request(), translated.paths()
        try:
            if self._tokens is not None:
                request["headers"] = await self._tokens.with_token(target.sandbox_id, scope, request["headers"])
            exchange = await self._upstream.connect()
        except TokenRefusedError as error:
            return _json_error(403, target.sandbox_id, str(error))
        except UnreachableError as error:
            return _json_error(503, target.sandbox_id, str(error))
        try:
            cause = await forward(exchange, paths, self._upstream.connect, request, receive, answer)
        finally:
            self._upstream.release(exchange)
        if cause is None:
            return None
        return _json_error(
            503, target.sandbox_id, f"the sandbox-manager at {self._upstream.name} did not answer properly: {cause}"
        )


class _Translation:
    """The difference between the address that a client has used for a port of a sandbox, and the manager's address."""

    def __init__(self, target: SandboxTarget, scope: Scope, upstream: Upstream) -> None:
        self._target = target
        self._scope = scope
        self._upstream = upstream
        self._prefix = sandbox_prefix(target.sandbox_id, target.port).encode("latin-1")
        self._routed = routed_prefix(target, scope)
        # OpenKruise's manager takes such a path for one of its API (see client/addresses/api_ids.py).
        self._by_headers = self._prefix.startswith(API_PREFIX.encode())
        self._inner = b"" if self._by_headers else self._prefix

    def paths(self) -> Paths:
        path = self._inner + self._target.path.encode("latin-1")
        return Paths(path, path, self._routed, self._target.port, None)

    def request(self) -> Scope:
        """Return the scope of the request as the manager needs it."""
        by_header = any(name == _ROUTING[0] for name, _ in self._scope["headers"])
        headers = [pair for pair in self._scope["headers"] if pair[0] not in _ROUTING]
        if self._by_headers or (by_header and not self._routed):
            # Here the private path decides, and the header says that the client's origin is not the sandbox's alone.
            values = (self._target.sandbox_id, str(self._target.port))
            headers += [(name, value.encode("latin-1")) for name, value in zip(_ROUTING, values, strict=True)]
        return {**self._scope, "headers": list(self._with_own_origin(headers))}

    def _with_own_origin(self, headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
        # An application compares Origin and Referer with the Host that it sees.
        used = f"{self._scope['scheme']}://{host_of(self._scope)}".lower().encode("latin-1")
        own = str(self._upstream.origin).encode("latin-1")
        for name, value in headers:
            if name == b"host":
                yield name, self._upstream.authority
            elif name == b"origin" and value.lower() == used:
                yield name, own
            elif name == b"referer" and value.lower().startswith(used + b"/"):
                yield name, own + (b"" if self._routed else self._inner) + value[len(used) :]
            else:
                yield name, value

    def answer_headers(self, headers: Headers) -> Headers:
        """Return the headers of an answer as the client needs them."""
        kept = [pair for pair in headers if pair[0] not in _OF_THE_WAY]
        if self._routed:
            return above_prefix(kept, b"", self._upstream.authority)
        return above_prefix(kept, self._prefix, self._upstream.authority)


def _json_error(status: int, sandbox_id: str, message: str) -> Response:
    # Not 502: for the SDK, that status says that the sandbox does not run.
    fields = {"sandboxId": sandbox_id, "message": message, "code": status, "request_id": current_request_id()}
    return JSONResponse(fields, status_code=status)
