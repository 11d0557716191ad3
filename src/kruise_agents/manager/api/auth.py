"""Who may call the API: the holder of an API key, sent as ``X-API-Key``."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ...protocol.keys import decode_key
from .errors import error_response

_PUBLIC = frozenset({"/health", "/openapi.json"})
_BEARER_ROUTES = "/volumecontent/"
"""Volume contents carry a volume's token instead of the key; not served yet, and the route says so."""
_HEADER = b"x-api-key"


class RequireKey:
    """ASGI middleware that answers 401 unless the request carries one of ``keys``.

    Each key has two spellings, raw and encoded (``protocol/keys.py``). What is kept and compared are digests, every
    one of them and each in constant time, so that the time of an answer tells nothing, not even a key's length.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [_digest(raw_key(key.encode())) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["path"] in _PUBLIC or scope["path"].startswith(_BEARER_ROUTES):
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _HEADER), None)
        if given is None:
            message = "Invalid API Key: the header X-API-Key is missing; set E2B_API_KEY or pass api_key="
        elif not self._knows(raw_key(given)):
            message = "Invalid API Key: this manager does not know the key that was sent"
        else:
            await self._app(scope, receive, send)
            return
        await error_response(401, message)(scope, receive, send)

    def _knows(self, raw: bytes) -> bool:
        # An encoded empty key is empty, and nobody's.
        given = _digest(raw)
        return bool(raw) and bool(sum(hmac.compare_digest(given, known) for known in self._digests))


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


def owner_of(request: Request) -> str:
    """The id of the key that a request came with. Everything belongs to one owner as long as keys have no ids."""
    owner: str = getattr(request.state, "owner", "")
    return owner


def raw_key(given: bytes) -> bytes:
    """The raw spelling of a key, whichever of the two it came in."""
    decoded = decode_key(given.decode("latin-1"))
    return given if decoded is None else decoded
