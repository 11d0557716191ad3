"""The application of the control plane, with all its routes, middleware and error handlers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypedDict

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..accounts.inheritance import Inheritance
from ..accounts.keys import Keys
from ..accounts.secrets import SecretStore
from ..runtime import Runtime
from ..sandboxes.control_client import NoAnswerError, StartError
from ..sandboxes.lifecycle import RefusedError
from ..sandboxes.service import SandboxService
from ..sandboxes.snapshots import Snapshots
from ..sandboxes.usage_history import UsageHistory
from ..state.reserve import NoSpaceError
from ..templates.model import Templates
from ..volumes import Volumes
from .auth import RequireCredentials
from .errors import ApiError, on_api_error, on_client_left, on_crash, on_failure, on_http_error, on_refused
from .keys import KeyRoutes
from .not_served import unsupported_routes
from .openapi import document
from .reading import Spec
from .routes import Access, Resource, Topic, operation
from .sandboxes.create import CreateRoutes
from .sandboxes.logs import LogRoutes
from .sandboxes.metrics import MetricsRoutes
from .sandboxes.network import NetworkRoutes
from .sandboxes.operations import SandboxRoutes
from .secrets import SecretRoutes
from .snapshots import SnapshotRoutes
from .templates import TemplateRoutes
from .volume_contents import VolumeContentRoutes
from .volumes import VolumeRoutes


def create_api(
    sandboxes: SandboxService,
    snapshots: Snapshots,
    templates: Templates,
    keys: Keys,
    inheritance: Inheritance,
    usage: UsageHistory,
    volumes: Volumes,
    secrets: SecretStore,
    runtime: Runtime,
    *,
    health: Mapping[str, str],
) -> Starlette:
    """Return the API as an ASGI app with routes below ``/``, not ``/kruise/api``.

    ``GET /health`` reports ``health``.
    """
    routes = [
        # The router takes the first match. /sandboxes/metrics comes before /sandboxes/{sandbox_id}, which matches too.
        *MetricsRoutes(sandboxes, usage).routes(),
        *CreateRoutes(sandboxes, templates, snapshots, volumes, keys).routes(),
        *SandboxRoutes(sandboxes).routes(),
        *HealthRoutes(health).routes(),
        *unsupported_routes(),
        *LogRoutes(sandboxes).routes(),
        *NetworkRoutes(sandboxes).routes(),
        *SnapshotRoutes(snapshots, sandboxes, templates, keys).routes(),
        *TemplateRoutes(templates, snapshots).routes(),
        *KeyRoutes(keys, inheritance).routes(),
        *VolumeRoutes(volumes, keys).routes(),
        *VolumeContentRoutes(volumes, runtime).routes(),
        *SecretRoutes(secrets, keys).routes(),
    ]
    description = DescriptionRoutes()
    routes += description.routes()
    description.document = document(routes)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(RequireCredentials, keys=keys, volumes=volumes, routes=routes)],
        exception_handlers={
            ApiError: on_api_error,
            RefusedError: on_refused,
            **dict.fromkeys((NoAnswerError, StartError, NoSpaceError), on_failure),
            ClientDisconnect: on_client_left,
            HTTPException: on_http_error,
            Exception: on_crash,
        },
    )
    app.router.redirect_slashes = False
    return app


class _HealthReply(TypedDict):
    status: Literal["OK"]
    version: str
    runtime: Annotated[str, Spec(description="the value of the option --runtime")]
    users: Annotated[Literal["one", "several"], Spec(description="how many users a sandbox has")]
    limits: Annotated[Literal["cgroup v2", "rlimits"], Spec(description="what holds sandboxes to their limits")]
    disk: Annotated[Literal["project quotas", "measured"], Spec(description="what holds them to their disk limit")]
    internet: Annotated[
        Literal["slirp4netns", "pasta", "none", "the machine's"], Spec(description="how sandboxes reach the internet")
    ]
    pause: Annotated[str, Spec(description="how processes are paused")]


class HealthRoutes(Resource):
    """The health check: the text ``OK``, as OpenKruise's manager answers, or a report for clients that ask for JSON."""

    topic = Topic.MANAGER

    def __init__(self, report: Mapping[str, str]) -> None:
        self._report = {"status": "OK", **report}

    @operation(
        "GET /health",
        "Say whether the manager serves",
        answers={200: {"application/json": _HealthReply, "text/plain": Literal["OK"]}},
        access=Access.PUBLIC,
        note="The text OK, or JSON if the header Accept has application/json.",
    )
    async def health(self, request: Request) -> Response:
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(self._report)
        return PlainTextResponse("OK")


class DescriptionRoutes(Resource):
    """The route of the OpenAPI document, which needs no key because the document has no secrets."""

    topic = Topic.MANAGER

    def __init__(self) -> None:
        self.document: dict[str, Any] = {}

    @operation("GET /openapi.json", "Return the OpenAPI document", access=Access.PUBLIC)
    async def describe(self, request: Request) -> dict[str, Any]:
        return self.document
