"""The manager's private channel into a sandbox: is it ready, and what is it for.

Served on a Unix socket that is not visible inside the sandbox, so no program in it can reach these routes.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .state import SandboxState


def control_app(state: SandboxState) -> Starlette:
    """The control routes.

    ``POST /init`` takes ``{"accessToken": str | null, "envVars": {str: str}}``, replaces both in ``state``.
    Because this socket is served last, its 204 also means that every other one is.
    """

    async def init(request: Request) -> Response:
        settings = await request.json()
        state.access_token = settings["accessToken"]
        state.variables = dict(settings["envVars"])
        return Response(status_code=204)

    return Starlette(routes=[Route("/init", init, methods=["POST"])])
