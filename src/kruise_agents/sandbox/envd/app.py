"""The ASGI application of envd: its routes, access control and CORS headers."""

from __future__ import annotations

import asyncio
import tempfile
import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from ...protocol.names import ACCESS_TOKEN_HEADER
from ..state import SandboxState
from .auth import AccessTokenMiddleware, Operation, verify
from .errors import HttpError, on_client_gone, on_failure, on_http_error, on_routing_error
from .files.compose import compose
from .files.download import download
from .files.upload import upload
from .filesystem.service import FilesystemService
from .metrics import Metrics
from .paths import resolve_for_http
from .process import ProcessService
from .users import UnknownUserError, User, Users

_NO_STORE = {"cache-control": "no-store"}
_EXPOSED_HEADERS = [
    "Connect-Protocol-Version",
    "Connect-Timeout-Ms",
    "Connect-Content-Encoding",
    "Connect-Accept-Encoding",
    "Location",
    "Cache-Control",
    "X-Content-Type-Options",
]


class Envd:
    """The agent of one sandbox. The event loop that serves the ASGI application ``app`` must also run ``close``."""

    def __init__(self, state: SandboxState) -> None:
        tempfile.gettempdir()  # finds the folder by a test write, which a full disk would refuse, and caches the path
        self._state = state
        self._users = Users(state)
        self._processes = ProcessService(state, self._users)
        self._filesystem = FilesystemService(self._users)
        self._metrics = Metrics(state.own_folders or [state.home], memory=state.memory, disk=state.disk)
        app = Starlette(
            routes=[
                Mount("/process.Process", self._processes.app()),
                Mount("/filesystem.Filesystem", self._filesystem.app()),
                Route("/files", self._download, methods=["GET"]),
                Route("/files", self._upload, methods=["POST"]),
                Route("/files/compose", self._compose, methods=["POST"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/metrics", self._measurements, methods=["GET"]),
                Route("/envs", self._variables, methods=["GET"]),
            ],
            middleware=[
                Middleware(
                    CORSMiddleware,
                    allow_origins=["*"],
                    allow_methods=["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE"],
                    allow_headers=["*"],
                    expose_headers=_EXPOSED_HEADERS,
                ),
                Middleware(AccessTokenMiddleware, state=state),
            ],
            exception_handlers={
                HttpError: on_http_error,
                HTTPException: on_routing_error,
                ClientDisconnect: on_client_gone,
                Exception: on_failure,
            },
        )
        app.router.redirect_slashes = False
        self.app: ASGIApp = app

    async def close(self) -> None:
        """Stop all watches, and kill running commands with their descendants, which takes at most five seconds."""
        self._filesystem.close()
        await self._processes.close()

    async def _health(self, _request: Request) -> Response:
        return Response(status_code=204, headers=_NO_STORE)

    async def _variables(self, _request: Request) -> Response:
        return JSONResponse(dict(self._state.variables), headers=_NO_STORE)

    async def _measurements(self, _request: Request) -> Response:
        # In a thread, because the kernel walks through the memory of each process of the sandbox.
        return JSONResponse(await asyncio.to_thread(self._metrics.measure), headers=_NO_STORE)

    async def _download(self, request: Request) -> Response:
        user = self._authorized(request, "read")
        return download(request, resolve_for_http(request.query_params.get("path", ""), user))

    async def _upload(self, request: Request) -> Response:
        return JSONResponse(await upload(request, self._authorized(request, "write")))

    async def _compose(self, request: Request) -> Response:
        return JSONResponse(await compose(request, self._user))

    def _authorized(self, request: Request, operation: Operation) -> User:
        query = request.query_params
        if token := self._state.access_token:
            verify(query, operation, token, request.headers.get(ACCESS_TOKEN_HEADER), time.time())
        return self._user(query.get("username"))

    def _user(self, name: str | None) -> User:
        try:
            return self._users.named(name)
        except UnknownUserError as error:
            raise HttpError(401, f"error looking up user '{error.name}': {error}") from error
