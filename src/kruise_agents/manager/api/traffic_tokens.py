"""Traffic access tokens over REST: in the answer to a create, and a new one on request."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..sandboxes.sandbox import Sandbox
from ..sandboxes.service import SandboxService
from ..traffic_tokens import TrafficToken
from .auth import owner_of
from .errors import ApiError
from .reading import read_fields


class TrafficTokenRoutes:
    """The handler, over the sandboxes of one manager and the issuer of their tokens."""

    def __init__(self, sandboxes: SandboxService) -> None:
        self._sandboxes = sandboxes

    def routes(self) -> list[Route]:
        """Its route, which exists below the private prefix only."""
        return [Route("/sandboxes/{sandbox_id}/traffic-access-token", self.refresh, methods=["POST"])]

    async def refresh(self, request: Request) -> Response:
        """A new token; the earlier ones stay valid until their own end."""
        if not request.state.private:
            raise ApiError(404, "traffic access tokens are only served below /kruise/api")
        try:
            await read_fields(request)
        except ApiError as error:
            raise ApiError(400, "Invalid traffic access token refresh request") from error
        sandbox_id = request.path_params["sandbox_id"]
        sandbox = self._sandboxes.running(sandbox_id)
        if sandbox is None or sandbox.owner != owner_of(request):
            raise ApiError(404, f"Sandbox route not found, maybe it is crashed or killed: {sandbox_id}")
        if not sandbox.protected:
            raise ApiError(409, "Sandbox cannot refresh its traffic access token")
        return JSONResponse(_fields(self._sandboxes.traffic_tokens.issue(sandbox.id, sandbox.uid)))


def new_token_fields(sandboxes: SandboxService, sandbox: Sandbox) -> dict[str, Any]:
    """What the answer to a create says about the token: only a protected sandbox has one."""
    if not sandbox.protected:
        return {}
    return _fields(sandboxes.traffic_tokens.issue(sandbox.id, sandbox.uid))


def _fields(token: TrafficToken) -> dict[str, Any]:
    return {
        "trafficAccessToken": token.value,
        "trafficAccessTokenExpiration": token.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
