"""The sandbox that a request is about: one of the caller's own."""

from __future__ import annotations

from starlette.requests import Request

from ..sandboxes.lifecycle import State
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.service import SandboxService
from .auth import owner_of
from .errors import sandbox_not_found


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
