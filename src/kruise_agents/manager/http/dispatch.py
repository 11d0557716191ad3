"""The one door of the manager: every request is parsed once and goes to the API or to a sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import AddressError, PortError
from ...protocol import ApiTarget, domain_for_reply, parse
from ...protocol.addresses import ID_HEADER, PORT_HEADER
from ..api.errors import error_response
from ..gateway import Gateway
from ..gateway.errors import invalid_port, unmappable
from ..metrics_page import MetricsPage


class ManagerApp:
    """The ASGI application of the manager's port.

    Parameters:
        api: the control plane.
        gateway: the data plane.
        domain: what replies name as the domain, or None: the host that the client used.
        page: counts the requests, and is what ``GET /metrics`` says on a host that names nothing else; ``GET /health``
            says there what it says as a route of the API.
    """

    def __init__(
        self, api: ASGIApp, gateway: Gateway, domain: str | None = None, *, page: MetricsPage | None = None
    ) -> None:
        self._page = page
        self._api = api
        self._gateway = gateway
        self._domain = domain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        door = "manager"

        async def counted(message: Message) -> None:
            if self._page is not None and message["type"] == "http.response.start":
                self._page.metrics.requests[door, message["status"]] += 1
            await send(message)

        headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        raw = _raw_target(scope)
        authority = _header(headers, "host") or ""
        try:
            target = parse(authority, raw, _header(headers, ID_HEADER), _header(headers, PORT_HEADER))
        except PortError as error:
            await invalid_port(error.port)(scope, receive, counted)
        except AddressError:
            path = scope["path"] if scope["method"] in ("GET", "HEAD") else None
            if self._page is not None and path == "/metrics":
                await self._page.response()(scope, receive, counted)
            elif path == "/health":
                door = "api"
                await self._api(scope, receive, counted)
            else:
                await unmappable(f"{scope['scheme']}://{authority}{raw}")(scope, receive, counted)
        else:
            if isinstance(target, ApiTarget):
                door = "api"
                await self._serve_api(target, authority, raw, scope, receive, counted)
            else:
                door = "gateway"
                await self._gateway.serve(target, scope, receive, counted)

    async def _serve_api(
        self, target: ApiTarget, authority: str, raw: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        domain = self._domain or domain_for_reply(authority, raw)
        if domain is None:
            await error_response(400, "cannot resolve sandbox domain: empty host")(scope, receive, send)
            return
        path, _, query = target.path.partition("?")
        inner = dict(scope)
        inner.update(
            path=unquote(path),
            raw_path=path.encode("latin-1"),
            query_string=query.encode("latin-1"),
            state={**scope.get("state", {}), "domain": domain, "private": target.private},
        )
        await self._api(inner, receive, send)


def _raw_target(scope: Scope) -> str:
    target: str = scope["raw_path"].decode("latin-1")
    query: str = scope["query_string"].decode("latin-1")
    return f"{target}?{query}" if query else target


def _header(headers: Sequence[tuple[bytes, bytes]], name: str) -> str | None:
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in headers if key == wanted), None)
