"""Checks of a request's credentials, and look-ups of its caller and its sandbox."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ...protocol.names import API_KEY_HEADER
from ..accounts.keys import ApiKey, Keys, raw_key
from ..sandboxes.lifecycle import State
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.service import SandboxService
from ..volumes import Volumes
from .errors import ApiError, error_response, sandbox_not_found
from .routes import Access, ApiRoute

NOT_RUNNING = "The API key has no running sandbox of that ID"
"""The meaning of 404 at routes that only take running sandboxes."""


class RequireCredentials:
    """ASGI middleware that answers 401 unless a request carries the credentials that its route asks for.

    Unknown paths need an API key. ``request.state`` gets ``caller`` (the API key) or, for a volume token, ``volume``.
    """

    def __init__(self, app: ASGIApp, keys: Keys, volumes: Volumes, routes: Sequence[ApiRoute]) -> None:
        self._app = app
        self._keys = keys
        self._volumes = volumes
        self._without_key = [route for route in routes if route.operation.access is not Access.KEY]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        complaint = self._check(scope)
        if complaint is None:
            await self._app(scope, receive, send)
        else:
            await error_response(401, complaint)(scope, receive, send)

    def _check(self, scope: Scope) -> str | None:
        for route in self._without_key:
            # The method does not matter here: the router refuses a wrong method after this check.
            found = route.path_regex.match(scope["path"])
            if found is not None:
                by_token = route.operation.access is Access.VOLUME_TOKEN
                return self._check_volume(scope, found["volume_id"]) if by_token else None
        return self._check_key(scope)

    def _check_key(self, scope: Scope) -> str | None:
        # A key is accepted raw or encoded (protocol/keys.py).
        key = _header(scope, API_KEY_HEADER)
        if key is None:
            return f"Invalid API Key: the header {API_KEY_HEADER} is missing; set E2B_API_KEY or pass api_key="
        caller = self._keys.find(raw_key(key))
        if caller is None:
            return (
                "Invalid API Key: this manager does not know the key that was sent; set E2B_API_KEY or api_key= to a "
                "key of this manager"
            )
        scope.setdefault("state", {})["caller"] = caller
        return None

    def _check_volume(self, scope: Scope, volume_id: str) -> str | None:
        scheme, _, token = (_header(scope, "Authorization") or b"").decode("latin-1").partition(" ")
        volume = self._volumes.opened_by(volume_id, token.strip())
        if scheme.lower() != "bearer" or volume is None:
            return "Invalid volume token: it comes with the volume, and is sent as Authorization: Bearer"
        scope.setdefault("state", {})["volume"] = volume
        return None


def _header(scope: Scope, name: str) -> bytes | None:
    wanted = name.lower().encode()
    return next((value for header, value in scope["headers"] if header == wanted), None)


def caller_of(request: Request) -> ApiKey:
    """Return the key that a request came with."""
    caller: ApiKey = request.state.caller
    return caller


def owner_of(request: Request) -> str:
    """Return the id of the caller's key, which owns the sandboxes, snapshots, volumes and secrets of the caller."""
    return caller_of(request).id


def still_valid(request: Request, keys: Keys) -> ApiKey:
    """Return the key that a request came with. A key that was deleted meanwhile raises ApiError 401."""
    caller = keys.get(owner_of(request))
    if caller is None:
        raise ApiError(401, "Invalid API Key: the key was deleted")
    return caller


def own_sandbox(request: Request, sandboxes: SandboxService, *states: State) -> Sandbox:
    """Return the sandbox that the request's path names.

    Raises ApiError 404 if the sandbox is unknown, starting or being killed, if it belongs to another key, or if
    ``states`` are given and the sandbox is in none of them.
    """
    sandbox_id: str = request.path_params["sandbox_id"]
    sandbox = sandboxes.find(sandbox_id)
    if sandbox is None or sandbox.owner != owner_of(request) or (states and sandbox.state not in states):
        raise sandbox_not_found(sandbox_id)
    return sandbox
