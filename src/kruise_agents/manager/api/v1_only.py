"""The face of a sandbox-manager that has no ``POST /v2/sandboxes``, for testing clients against it.

As OpenKruise's manager of August 2026: 405 and 404 in text, before the key is looked at. What that router does with
unknown paths below known ones (a fork that creates, a ``DELETE`` that deletes) is not imitated.
"""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

_METHODS = ("GET", "HEAD")
_MISSING = frozenset({"access-tokens", "default-templates", "nodes", "secrets", "volumecontent", "volumes"})
_MISSING_BELOW = frozenset({("v2", "templates"), ("v3", "templates")})


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
