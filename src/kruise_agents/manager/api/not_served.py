"""Routes that this manager, or an older manager, does not serve.

The API answers 400 to known routes of E2B's and OpenKruise's managers that this manager does not serve yet. The message
names the feature. The status is 400, because the SDK would read a 404 as a missing sandbox, and never retries a 400.

With ``--v1-only`` the API answers like a sandbox-manager without ``POST /v2/sandboxes``, for tests of clients. Source:
OpenKruise's manager of August 2026, which answers 405 and 404 in text before it checks the key. Two faults of that
manager are not imitated: it treats a fork request as a create request, and an unknown ``DELETE`` below the path of a
sandbox as a request to delete the sandbox.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ApiError
from .routes import ApiRoute, Operation, Topic

_METHODS = ("GET", "HEAD")
_MISSING = frozenset(
    {"access-tokens", "default-templates", "nodes", "openapi.json", "secrets", "volumecontent", "volumes"}
)
_MISSING_BELOW = frozenset({("v2", "templates"), ("v3", "templates")})
_INSTEAD = {"template builds": "; a TOML file in the folder of its option --templates makes a template"}
_REFUSAL = {400: "The message names what is not supported"}
_UNSUPPORTED: list[tuple[str, str, list[str]]] = [
    # Before "/templates/{template_id}", which matches "/templates/tags" too.
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
    # Of E2B's manager: most of these need accounts or several machines.
    ("access tokens", "/access-tokens", ["POST"]),
    ("metrics of teams", "/teams/{team_id}/metrics", ["GET"]),
    ("nodes", "/nodes", ["GET"]),
    ("changing an API key", "/api-keys/{key_id}", ["PATCH"]),
]


def unsupported_routes() -> list[ApiRoute]:
    """Return the routes that answer 400. They must come before the routes of templates, which match more paths."""
    return [
        ApiRoute(
            path,
            Operation(method, (path,), f"{feature}: not supported yet", {}, _REFUSAL),
            _refusal(feature),
            Topic.NOT_SERVED,
        )
        for feature, path, methods in _UNSUPPORTED
        for method in methods
    ]


def _refusal(feature: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(request: Request) -> Response:
        raise ApiError(400, f"{feature}: not supported by this manager yet{_INSTEAD.get(feature, '')}")

    return refuse


class V1Only:
    """ASGI middleware that answers 404 or 405 for routes that an older manager does not have."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        segments = scope["path"].strip("/").split("/")
        app = self._app
        if segments[:2] == ["v2", "sandboxes"] and scope["method"] not in _METHODS:
            app = _wrong_method({"Allow": ", ".join(_METHODS)})
        elif segments[0] in _MISSING or tuple(segments[:2]) in _MISSING_BELOW:
            app = _not_found()
        await app(scope, receive, send)


async def on_missing(request: Request, error: Exception) -> Response:
    """Answer 404 or 405 in plain text to an unknown path or a wrong method that :class:`V1Only` has let through."""
    assert isinstance(error, HTTPException)
    return _wrong_method(dict(error.headers or {})) if error.status_code == 405 else _not_found()


def _wrong_method(headers: dict[str, str]) -> PlainTextResponse:
    return PlainTextResponse("Method Not Allowed\n", status_code=405, headers=headers)


def _not_found() -> PlainTextResponse:
    return PlainTextResponse("404 page not found\n", status_code=404)
