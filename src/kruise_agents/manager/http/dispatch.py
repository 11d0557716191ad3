"""The application of the manager's port, which passes requests to the API or to the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from urllib.parse import unquote

from starlette.responses import PlainTextResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import AddressError, PortError
from ...protocol.addresses import ApiTarget, SandboxTarget, Target
from ...protocol.domains import domain_for_reply
from ...protocol.names import SANDBOX_ID_HEADER, SANDBOX_PORT_HEADER
from ...protocol.routing import parse
from ..api.errors import error_response
from ..gateway.errors import DataPlaneErrors
from ..metrics import MetricsPage
from ..request_log import NO_ROUTE, RequestRecord
from .pages import OPENAPI, Pages

FindTarget = Callable[[str, str, str | None, str | None], Target]


class DataPlane(Protocol):
    """A server of the requests whose target is a sandbox."""

    errors: DataPlaneErrors

    async def serve(self, target: SandboxTarget, scope: Scope, receive: Receive, send: Send) -> None: ...


class ManagerApp:
    """The ASGI application of the manager's port: ``api`` is the control plane, ``gateway`` the data plane.

    The API's replies name ``domain``. If ``domain`` is None, replies name the request's host and port. A leading
    ``api.`` of the host is dropped, unless the path begins with ``/kruise/``. ``page`` serves ``GET /metrics``
    if the request names neither the API nor a sandbox; None: there are no metrics. The metrics count all answers except
    answers that open a WebSocket. ``find_target`` parses requests as ``protocol.routing.parse`` does. ``settle`` is
    awaited before an answer of the API that may tell of a change. ``pages`` are those for people, at the root.
    """

    def __init__(
        self,
        api: ASGIApp,
        gateway: DataPlane,
        domain: str | None,
        page: MetricsPage | None,
        find_target: FindTarget = parse,
        settle: Callable[[], Awaitable[None]] | None = None,
        pages: Pages | None = None,
    ) -> None:
        self._page = page
        self._find_target = find_target
        self._settle = settle
        self._pages = pages
        self._api = api
        self._gateway = gateway
        self._domain = domain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = RequestRecord.of(scope)
        record.make_current()

        async def answer(message: Message) -> None:
            if self._page is not None and message["type"] == "http.response.start":
                self._page.metrics.requests[record.door, message["status"]] += 1
            await send(record.answered(message))

        try:
            await self._serve(record, scope, receive, answer)
            record.open = False
        except Exception:
            if not record.status:
                await PlainTextResponse("Internal Server Error", 500)(scope, receive, answer)
            raise  # uvicorn logs the error, with the request id, because the record is still open
        finally:
            record.write()

    async def _serve(self, record: RequestRecord, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        raw = _raw_target(scope)
        authority = _header(headers, "host") or ""
        try:
            target = self._find_target(
                authority, raw, _header(headers, SANDBOX_ID_HEADER), _header(headers, SANDBOX_PORT_HEADER)
            )
        except PortError as error:
            await self._gateway.errors.invalid_port(error.port)(scope, receive, send)
        except AddressError:
            # A request with the ID of a sandbox is none for the manager's own pages, even if its port is wrong.
            own = scope["method"] in ("GET", "HEAD") and not _header(headers, SANDBOX_ID_HEADER)
            path = scope["path"] if own else None
            if path == "/metrics" and self._page is not None:
                record.route = path
                await self._page.response()(scope, receive, send)
            elif path == "/health" or (path == OPENAPI and self._pages is not None):
                await self._call_api(record, scope, receive, send)
            elif path and self._pages is not None and (found := self._pages.find(path, scope, authority)) is not None:
                record.route = path
                await found(scope, receive, send)
            else:
                url = f"{scope['scheme']}://{authority}{raw}"
                await self._gateway.errors.unmappable(url)(scope, receive, send)
        else:
            if isinstance(target, ApiTarget):
                await self._serve_api(target, authority, raw, record, scope, receive, send)
            else:
                record.door, record.route, record.sandbox_id = "gateway", f":{target.port}", target.sandbox_id
                await self._gateway.serve(target, scope, receive, send)

    async def _serve_api(
        self,
        target: ApiTarget,
        authority: str,
        raw: str,
        record: RequestRecord,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        domain = self._domain or domain_for_reply(authority, raw)
        if domain is None:
            record.door = "api"
            await error_response(400, "cannot resolve sandbox domain: empty host")(scope, receive, send)
            return
        path, _, query = target.path.partition("?")
        inner = dict(scope)
        inner.update(
            path=unquote(path),
            raw_path=path.encode("latin-1"),
            query_string=query.encode("latin-1"),
            state={**scope["state"], "domain": domain, "private": target.private},
        )
        await self._call_api(record, inner, receive, send)

    async def _call_api(self, record: RequestRecord, scope: Scope, receive: Receive, send: Send) -> None:
        record.door = "api"

        async def settled(message: Message) -> None:
            if message["type"] == "http.response.start" and self._settle is not None:
                await self._settle()
            await send(message)

        try:
            await self._api(scope, receive, send if scope["method"] in ("GET", "HEAD") else settled)
        finally:
            if record.logged:
                # The API has put the route, the sandbox and the caller into the scope.
                record.route = _template(self._api, scope)
                record.sandbox_id = scope["state"].get("sandbox_id") or scope.get("path_params", {}).get("sandbox_id")
                caller = scope["state"].get("caller")
                record.key_id = caller.id if caller is not None else None


def _template(api: ASGIApp, scope: Scope) -> str:
    """Return the path template of a request's route, even if the API refused the request; ``-`` if there is none."""
    if "route" in scope:  # newer releases of Starlette leave the route here
        return str(scope["route"].path)
    matches = [(route.matches(scope)[0], route.path) for route in getattr(api, "routes", ())]
    paths = [path for wanted in (Match.FULL, Match.PARTIAL) for match, path in matches if match is wanted]
    return paths[0] if paths else NO_ROUTE


def _raw_target(scope: Scope) -> str:
    target: str = scope["raw_path"].decode("latin-1")
    query: str = scope["query_string"].decode("latin-1")
    return f"{target}?{query}" if query else target


def _header(headers: Sequence[tuple[bytes, bytes]], name: str) -> str | None:
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in headers if key == wanted), None)
