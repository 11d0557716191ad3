"""Who calls the API: the holder of an API key, sent as ``X-API-Key``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ...protocol.names import API_KEY_HEADER
from ..accounts.keys import ApiKey, Keys, raw_key
from ..sandboxes.lifecycle import State
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.service import SandboxService
from .errors import ApiError, error_response, sandbox_not_found

_PUBLIC = frozenset({"/health", "/openapi.json"})
_BEARER_ROUTES = "/volumecontent/"
"""Volume contents carry a volume's token instead of the key."""


class RequireKey:
    """ASGI middleware that answers 401 unless the request carries one of ``keys``; handlers learn which.

    Each key has two spellings, raw and encoded (``protocol/keys.py``).
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["path"] in _PUBLIC or scope["path"].startswith(_BEARER_ROUTES):
            await self._app(scope, receive, send)
            return
        name = API_KEY_HEADER.lower().encode()
        given = next((value for header, value in scope["headers"] if header == name), None)
        if given is None:
            message = f"Invalid API Key: the header {API_KEY_HEADER} is missing; set E2B_API_KEY or pass api_key="
        elif (caller := self._keys.find(raw_key(given))) is None:
            message = "Invalid API Key: this manager does not know the key that was sent"
        else:
            scope.setdefault("state", {})["caller"] = caller
            await self._app(scope, receive, send)
            return
        await error_response(401, message)(scope, receive, send)


def caller_of(request: Request) -> ApiKey:
    """The key that a request came with."""
    caller: ApiKey = request.state.caller
    return caller


def owner_of(request: Request) -> str:
    """The id of that key: the owner of what the request makes, and of all that it may see."""
    return caller_of(request).id


def still_valid(request: Request, keys: Keys) -> ApiKey:
    """The key that a request came with, if nobody deleted it while the request's body came.

    Raises:
        ApiError: 401.
    """
    caller = keys.get(owner_of(request))
    if caller is None:
        raise ApiError(401, "Invalid API Key: the key was deleted")
    return caller


def own_sandbox(request: Request, sandboxes: SandboxService, *states: State) -> Sandbox:
    """The sandbox with the id in the request's path, in one of ``states`` if any are given.

    Raises:
        ApiError: 404, the same for one that is not there, in another state, or another key's.
    """
    sandbox_id: str = request.path_params["sandbox_id"]
    sandbox = sandboxes.find(sandbox_id)
    if sandbox is None or sandbox.owner != owner_of(request) or (states and sandbox.state not in states):
        raise sandbox_not_found(sandbox_id)
    return sandbox
