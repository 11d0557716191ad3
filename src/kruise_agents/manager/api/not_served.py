"""Routes of other managers that this manager does not serve.

The API answers 400 to known routes of E2B's and OpenKruise's managers that this manager does not serve yet. The message
names the feature. The status is 400, because the SDK would read a 404 as a missing sandbox, and never retries a 400.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from ..templates import template_name
from .errors import ApiError
from .reading import read_body, read_fields
from .routes import ApiRoute, Operation, Topic

_BUILDS = "template builds"
_REFUSAL = {400: "The message names what is not supported"}
_UNSUPPORTED: list[tuple[str, str, list[str]]] = [
    # Before "/templates/{template_id}", which matches "/templates/tags" too.
    ("template tags", "/templates/tags", ["POST", "DELETE"]),
    ("template tags", "/templates/{template_id}/tags/{what}", ["GET"]),
    ("template tags", "/templates/{template_id}/tags/{tag}/assignments", ["GET"]),
    ("changing a template", "/templates/{template_id}", ["PATCH", "POST"]),
    ("changing a template", "/v2/templates/{template_id}", ["PATCH"]),
    (_BUILDS, "/templates", ["POST"]),
    (_BUILDS, "/v2/templates", ["POST"]),
    (_BUILDS, "/v3/templates", ["POST"]),
    (_BUILDS, "/templates/{template_id}/files/{hash}", ["GET"]),
    (_BUILDS, "/v2/templates/{template_id}/builds/{build_id}", ["POST"]),
    (_BUILDS, "/templates/{template_id}/builds/{build_id}/{what}", ["GET"]),
    ("default templates", "/default-templates", ["GET"]),
    # Of OpenKruise's manager: the address of a Chrome in a sandbox, and its table of routes.
    ("the address of a browser", "/browser/{sandbox_id}/json/version", ["GET"]),
    ("debugging information", "/debug", ["GET"]),
    # Of E2B's manager: most of these need accounts or several machines.
    ("access tokens", "/access-tokens", ["POST"]),
    ("metrics of teams", "/teams/{team_id}/metrics", ["GET"]),
    ("nodes", "/nodes", ["GET"]),
    ("changing an API key", "/api-keys/{key_id}", ["PATCH"]),
]


@dataclass(frozen=True, slots=True)
class _BuildRequest:
    name: str | None = None
    alias: str | None = None  # the name, in calls of older SDKs


def unsupported_routes() -> list[ApiRoute]:
    """Return the routes that answer 400. They must come before the routes of templates, which match more paths."""
    return [
        ApiRoute(
            path,
            Operation(method, (path,), f"{feature}: not supported yet", {}, _REFUSAL),
            _refusal(feature),
            Topic.NOT_SERVED,
        )
        for feature, path, methods in _UNSUPPORTED
        for method in methods
    ]


def _refusal(feature: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(request: Request) -> Response:
        instead = _instead_of_a_build(await _file_name(request)) if feature == _BUILDS else ""
        raise ApiError(400, f"{feature}: not supported by this manager yet{instead}")

    return refuse


def _instead_of_a_build(file_name: str) -> str:
    return (
        f"; name a template that is there, such as base, or put {file_name} into the folder of the manager's option "
        "--templates (the file may be empty) and start the manager again"
    )


async def _file_name(request: Request) -> str:
    # Return the file that makes a template of the name in the body. Other names, which no file can have, are not shown.
    if request.method == "POST":
        body = read_body(_BuildRequest, await read_fields(request))
        name = template_name(body.name or body.alias or "")
        if name is not None:
            return f"{name}.toml"
    return "<name>.toml"
