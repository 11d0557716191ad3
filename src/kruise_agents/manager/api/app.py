"""The control plane put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..accounts.inheritance import Inheritance
from ..accounts.keys import Keys
from ..accounts.secrets import SecretStore
from ..runtime import Runtime
from ..sandboxes.control_client import NoAnswerError, StartError
from ..sandboxes.lifecycle import RefusedError
from ..sandboxes.service import SandboxService
from ..sandboxes.snapshots import Snapshots
from ..sandboxes.usage_history import UsageHistory
from ..state.database import NoSpaceError
from ..templates.model import Templates
from ..volumes import Volumes
from .auth import RequireKey
from .errors import ApiError, on_api_error, on_crash, on_http_error, on_no_answer, on_no_space, on_refused
from .keys import KeyRoutes
from .not_served import V1Only, on_missing, unsupported_routes
from .openapi import document
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
    holdings: Inheritance,
    measurements: UsageHistory,
    volumes: Volumes,
    held: SecretStore,
    runtime: Runtime,
    *,
    health: Mapping[str, str],
    v1_only: bool = False,
) -> Starlette:
    """The API as an ASGI application whose routes have no prefix.

    Parameters:
        keys: who may call it.
        holdings: what belongs to them.
        measurements: what sandboxes use.
        volumes: the folders that sandboxes share.
        held: the secrets of keys.
        runtime: what runs sandboxes.
        health: what ``GET /health`` tells those who accept JSON.
        v1_only: answer as older sandbox-managers do, which have no ``POST /v2/sandboxes``.
    """
    refused = unsupported_routes()
    routes = [
        Route("/health", _Health(health), methods=["GET"]),
        *refused,
        *MetricsRoutes(sandboxes, measurements).routes(),
        *LogRoutes(sandboxes).routes(),
        *SandboxRoutes(sandboxes, templates, snapshots, volumes, keys, v1_only=v1_only).routes(),
        *NetworkRoutes(sandboxes).routes(),
        *SnapshotRoutes(snapshots, sandboxes, templates, keys).routes(),
        *TemplateRoutes(templates, snapshots).routes(),
        *KeyRoutes(keys, holdings).routes(),
        *VolumeRoutes(volumes, keys).routes(),
        *VolumeContentRoutes(volumes, runtime).routes(),
        *SecretRoutes(held, keys).routes(),
    ]
    if not v1_only:
        description = _Description()
        routes.append(Route("/openapi.json", description, methods=["GET"]))
        description.document = document(routes, refused)
    app = Starlette(
        routes=routes,
        middleware=[*([Middleware(V1Only)] if v1_only else []), Middleware(RequireKey, keys=keys)],
        exception_handlers={
            ApiError: on_api_error,
            RefusedError: on_refused,
            NoAnswerError: on_no_answer,
            StartError: on_no_answer,
            NoSpaceError: on_no_space,
            HTTPException: on_missing if v1_only else on_http_error,
            Exception: on_crash,
        },
    )
    app.router.redirect_slashes = False
    return app


class _Description:
    """``GET /openapi.json``: what is served here, for everybody; there is no secret in it."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse(self.document)(scope, receive, send)


class _Health:
    """``GET /health``: the text ``OK`` as OpenKruise's manager says it; with ``Accept: application/json`` a report."""

    def __init__(self, report: Mapping[str, str]) -> None:
        self._report = {"status": "OK", **report}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = Request(scope).headers.get("accept", "")
        response = JSONResponse(self._report) if "application/json" in accepted else PlainTextResponse("OK")
        await response(scope, receive, send)
