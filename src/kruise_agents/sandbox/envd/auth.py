"""Access to envd: the sandbox's access token, and signed URLs of ``/files``.

A signed URL lets a client without the token either download or upload, as one user. A URL with a path permits that
path alone; an upload URL without a path permits any. Source of the algorithm: ``get_signature`` of e2b 2.8.0 to 2.63.0.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Literal

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ...protocol.names import ACCESS_TOKEN_HEADER
from ..state import SandboxState
from .errors import HttpError, error_response

Operation = Literal["read", "write"]

# ``/health`` needs no token. The handlers of ``/files`` check the token or the signature.
_WITHOUT_TOKEN = {(method, path) for method in ("GET", "HEAD") for path in ("/health", "/files")} | {("POST", "/files")}
_MESSAGE = "unauthorized access, please provide a valid access token or method signing if supported"


class AccessTokenMiddleware:
    """Middleware that requires the access token if the sandbox has one. ``_WITHOUT_TOKEN`` lists the exempt routes."""

    def __init__(self, app: ASGIApp, state: SandboxState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = self._state.access_token
        if token and scope["type"] == "http" and (scope["method"], scope["path"]) not in _WITHOUT_TOKEN:
            header = Headers(scope=scope).get(ACCESS_TOKEN_HEADER, "")
            if not _same(header, token):
                await error_response(401, _MESSAGE)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def sign(path: str, operation: Operation, username: str, token: str, expiration: str | None = None) -> str:
    """Return a URL's signature. ``path`` and ``username`` are decoded query parameters, each "" if the URL lacks it.

    ``expiration`` is the parameter ``signature_expiration``: Unix seconds as text, or None if absent.
    """
    raw = f"{path}:{operation}:{username}:{token}"
    if expiration is not None:
        raw += f":{expiration}"
    digest = hashlib.sha256(raw.encode("utf-8", "surrogatepass")).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")


def verify(query: Mapping[str, str], operation: Operation, token: str, header_token: str | None, now: float) -> None:
    """Raise HttpError 401 for a wrong ``header_token`` or, if that is None, a missing, wrong or expired signature."""
    if header_token is not None:
        if not _same(header_token, token):
            raise HttpError(401, "access token present in header but does not match")
        return
    if not (signature := query.get("signature")):
        raise HttpError(401, "missing signature query parameter")
    expiration = query.get("signature_expiration")
    expected = sign(query.get("path", ""), operation, query.get("username", ""), token, expiration)
    if not _same(signature, expected):
        raise HttpError(401, "invalid signature")
    # The time is checked last, so that only a client with a genuine signature learns of the expiration.
    if expiration is not None and _seconds(expiration) < now:
        raise HttpError(401, "signature is already expired")


def _seconds(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise HttpError(401, "invalid signature expiration") from None


def _same(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode(), right.encode())
