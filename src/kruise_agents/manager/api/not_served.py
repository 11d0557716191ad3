"""Routes that the SDK calls and this manager does not serve yet: each says so by name, instead of a bare 404.

400 is never retried by the SDK and never read as a missing sandbox.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ApiError

_METHODS = ("GET", "HEAD")
_MISSING = frozenset({"access-tokens", "default-templates", "nodes", "secrets", "volumecontent", "volumes"})
_MISSING_BELOW = frozenset({("v2", "templates"), ("v3", "templates")})
_ROUTES: list[tuple[str, str, list[str]]] = [
    # Before those with a parameter in the place of "tags".
    ("template tags", "/templates/tags", ["POST", "DELETE"]),
    ("template tags", "/templates/{template_id}/tags/{what}", ["GET"]),
    ("template tags", "/templates/{template_id}/tags/{tag}/assignments", ["GET"]),
    ("changing a template", "/templates/{template_id}", ["PATCH", "POST"]),
    ("changing a template", "/v2/templates/{template_id}", ["PATCH"]),
    ("template builds", "/templates", ["POST"]),
    ("template builds", "/v2/templates", ["POST"]),
    ("template builds", "/v3/templates", ["POST"]),
    ("template builds", "/templates/{template_id}/files/{hash}", ["GET"]),
    ("template builds", "/v2/templates/{template_id}/builds/{build_id}", ["POST"]),
    ("template builds", "/templates/{template_id}/builds/{build_id}/{what}", ["GET"]),
    ("default templates", "/default-templates", ["GET"]),
    # Of OpenKruise's manager: the address of a Chrome in a sandbox, and its table of routes.
    ("the address of a browser", "/browser/{sandbox_id}/json/version", ["GET"]),
    ("debugging information", "/debug", ["GET"]),
    # Of E2B's: what only makes sense with accounts or several machines.
    ("access tokens", "/access-tokens", ["POST"]),
    ("metrics of teams", "/teams/{team_id}/metrics", ["GET"]),
    ("nodes", "/nodes", ["GET"]),
    ("changing an API key", "/api-keys/{key_id}", ["PATCH"]),
]


def unsupported_routes() -> list[Route]:
    """One route for each; they go before the served ones, whose patterns are wider."""
    return [Route(path, _refusal(feature), methods=methods, name=feature) for feature, path, methods in _ROUTES]


def _refusal(feature: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(request: Request) -> Response:
        raise ApiError(400, f"{feature}: not supported by this manager yet")

    return refuse


class V1Only:
    """ASGI middleware that answers what an older manager has no handler for, and passes the rest on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        segments = scope["path"].strip("/").split("/")
        app = self._app
        if segments[:2] == ["v2", "sandboxes"] and scope["method"] not in _METHODS:
            app = _wrong_method({"Allow": ", ".join(_METHODS)})
        elif segments[0] in _MISSING or tuple(segments[:2]) in _MISSING_BELOW:
            app = _not_found()
        await app(scope, receive, send)


async def on_missing(request: Request, error: Exception) -> Response:
    """Handler for what the router raises: the same texts behind the key."""
    assert isinstance(error, HTTPException)
    return _wrong_method(dict(error.headers or {})) if error.status_code == 405 else _not_found()


def _wrong_method(headers: dict[str, str]) -> PlainTextResponse:
    return PlainTextResponse("Method Not Allowed\n", status_code=405, headers=headers)


def _not_found() -> PlainTextResponse:
    return PlainTextResponse("404 page not found\n", status_code=404)
