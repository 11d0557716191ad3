"""The control plane: routing as Go's router does it, the checks before a handler, and the answers to errors."""

from __future__ import annotations

import html
import posixpath
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ...protocol.addresses import API_PREFIX
from ...protocol.names import API_KEY_HEADER
from ...protocol.openkruise import Route, allowed_methods, handler_of
from ..accounts.inheritance import Inheritance
from ..accounts.keys import Keys, raw_key
from ..api.errors import ApiError
from ..request_log import CLIENT_LEFT
from ..sandboxes.control_client import NoAnswerError, StartError
from ..sandboxes.lifecycle import RefusedError
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.service import SandboxService
from ..sandboxes.snapshots import Snapshots
from ..state.reserve import NoSpaceError
from ..templates.model import Templates
from . import replies
from .keys import KeyHandlers
from .reading import Refused
from .sandboxes import SandboxHandlers
from .templates import TemplateHandlers

_SANDBOX = "{sandboxID}"
_TEMPLATE = "{templateID}"
Handler = Callable[..., Awaitable[Response]]


def create_api(
    sandboxes: SandboxService, snapshots: Snapshots, templates: Templates, keys: Keys, inheritance: Inheritance
) -> ASGIApp:
    """Return the API as an ASGI app, with routes below ``/`` as in the normal mode."""
    boxes = SandboxHandlers(sandboxes, snapshots, templates, keys)
    models = TemplateHandlers(templates, snapshots)
    accounts = KeyHandlers(keys, inheritance)
    handlers: dict[tuple[str, str], Handler] = {
        ("POST", "/sandboxes"): boxes.create,
        ("GET", "/v2/sandboxes"): boxes.list_all,
        ("GET", "/sandboxes/{sandboxID}"): boxes.get,
        ("DELETE", "/sandboxes/{sandboxID}"): boxes.delete,
        ("PUT", "/sandboxes/{sandboxID}/network"): boxes.replace_rules,
        ("POST", "/sandboxes/{sandboxID}/pause"): boxes.pause,
        ("POST", "/sandboxes/{sandboxID}/resume"): boxes.resume,
        ("POST", "/sandboxes/{sandboxID}/connect"): boxes.connect,
        ("POST", "/sandboxes/{sandboxID}/timeout"): boxes.set_timeout,
        ("POST", "/sandboxes/{sandboxID}/snapshots"): boxes.take_snapshot,
        ("POST", "/sandboxes/{sandboxID}/traffic-access-token"): boxes.new_traffic_token,
        ("GET", "/browser/{sandboxID}/json/version"): boxes.browser,
        ("GET", "/snapshots"): models.list_snapshots,
        ("GET", "/templates"): models.list_all,
        ("GET", "/templates/{templateID}"): models.get,
        ("DELETE", "/templates/{templateID}"): models.delete,
        ("GET", "/teams"): accounts.teams,
        ("GET", "/api-keys/compatible"): accounts.compatible,
        ("GET", "/api-keys"): accounts.list_all,
        ("POST", "/api-keys"): accounts.make,
        ("DELETE", "/api-keys/{apiKeyID}"): accounts.remove,
        ("GET", "/debug"): _debug,
    }
    return _Api(handlers, sandboxes, keys)


async def _debug(request: Request) -> Response:
    # There: the replicas of the manager, which this one does not have, and pools of a kind that nothing fills.
    return replies.answer(200, {"Peers": [], "Pools": {}})


@dataclass(frozen=True)
class _Api:
    handlers: dict[tuple[str, str], Handler]
    sandboxes: SandboxService
    keys: Keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Exception:  # a defect of this manager
            await replies.error(500, 500, "Internal Server Error")(scope, receive, send)
            raise  # the server logs the traceback
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path, private = request.scope["path"], request.scope["state"].get("private", False)
        if (clean := _clean(path)) != path:
            return _redirect(request, (API_PREFIX if private else "") + clean)
        if path == "/health" and not private and request.method in ("GET", "HEAD"):
            return PlainTextResponse("OK")
        route = handler_of(request.method, path, private=private)
        if route is None:
            return _no_handler(path, private=private)
        request.scope["route"] = route  # for the log
        try:
            return await self._handle(request, route)
        except Refused as error:
            return replies.error(error.status, error.code, error.message)
        except ApiError as error:
            return replies.error(error.status, error.status, error.message)
        except RefusedError:  # the sandbox was ended meanwhile
            return replies.error(404, 404, _route_not_found(request.path_params["sandbox_id"]))
        except (NoAnswerError, StartError, NoSpaceError) as error:
            status = 507 if isinstance(error, NoSpaceError) else 500
            return replies.error(status, status, str(error))
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)

    async def _handle(self, request: Request, route: Route) -> Response:
        caller = self.keys.find(raw_key(request.headers.get(API_KEY_HEADER, "").encode("latin-1")))
        if caller is None:
            raise Refused(401, "Invalid API Key")
        request.state.caller = caller
        handler = self.handlers[route.method, route.path]
        values = dict(zip(route.path.split("/"), request.scope["path"].split("/"), strict=False))
        if _SANDBOX in values:
            request.scope["path_params"] = {"sandbox_id": values[_SANDBOX]}
            return await handler(request, self._owned(values[_SANDBOX], caller.id))
        if _TEMPLATE in values:
            return await handler(request, values[_TEMPLATE])
        request.scope["path_params"] = {"key_id": values.get("{apiKeyID}")}
        return await handler(request)

    def _owned(self, sandbox_id: str, owner: str) -> Sandbox:
        sandbox = self.sandboxes.find(sandbox_id)
        if sandbox is None or sandbox.owner != owner:
            raise Refused(404, _route_not_found(sandbox_id))
        return sandbox


def _route_not_found(sandbox_id: str) -> str:
    return f"Sandbox route not found, maybe it is crashed or killed: {sandbox_id}"


def _clean(path: str) -> str:
    """Return a path without ``//``, ``.`` and ``..``, with the slash at its end if it has one."""
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return clean + "/" if path.endswith("/") and clean != "/" else clean


def _redirect(request: Request, path: str) -> Response:
    query = request.scope["query_string"].decode("latin-1")
    location = quote(path) + (f"?{query}" if query else "")
    body = f'<a href="{html.escape(location)}">Temporary Redirect</a>.\n\n' if request.method == "GET" else ""
    return Response(body, 307, {"Location": location, "Content-Type": "text/html; charset=utf-8"})


def _no_handler(path: str, *, private: bool) -> Response:
    methods = allowed_methods(path, private=private)
    if not methods:
        return replies.text(404, "404 page not found")
    return replies.text(405, "Method Not Allowed", {"Allow": ", ".join(methods)})
