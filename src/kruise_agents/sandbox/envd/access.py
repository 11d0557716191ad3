"""The access token of the sandbox, on every route but those that check it by themselves."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ...protocol.names import ACCESS_TOKEN_HEADER
from ..state import SandboxState
from .http_errors import error_response

_FREE = {(method, path) for method in ("GET", "HEAD") for path in ("/health", "/files")} | {("POST", "/files")}
_MESSAGE = "unauthorized access, please provide a valid access token or method signing if supported"


def same(left: str, right: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(left.encode(), right.encode())


class AccessTokenMiddleware:
    """Answers 401 unless ``X-Access-Token`` is the sandbox's token, which is read anew for each request."""

    def __init__(self, app: ASGIApp, state: SandboxState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request pass, or answer it."""
        token = self._state.access_token
        if token and scope["type"] == "http" and (scope["method"], scope["path"]) not in _FREE:
            given = Headers(scope=scope).get(ACCESS_TOKEN_HEADER, "")
            if not same(given, token):
                await error_response(401, _MESSAGE)(scope, receive, send)
                return
        await self._app(scope, receive, send)
