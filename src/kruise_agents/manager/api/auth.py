"""Who may call the API: the holder of an API key, sent as ``X-API-Key``."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import error_response

_PUBLIC = frozenset({"/health"})
_HEADER = b"x-api-key"


class RequireKey:
    """ASGI middleware that answers 401 unless the request carries one of ``keys``.

    Every key is compared, each in constant time, so that the time of an answer tells nothing.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["path"] in _PUBLIC:
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _HEADER), None)
        if given is None:
            message = "Invalid API Key: the header X-API-Key is missing; set E2B_API_KEY or pass api_key="
        elif not sum(hmac.compare_digest(given, key) for key in self._keys):
            message = "Invalid API Key: this manager does not know the key that was sent"
        else:
            await self._app(scope, receive, send)
            return
        await error_response(401, message)(scope, receive, send)
