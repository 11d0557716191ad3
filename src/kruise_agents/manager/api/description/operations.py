"""What each route is for: one row a route. Routes that are only refused (501) describe themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .schemas import Schema, array_of, reference

_TEXT: Schema = {"type": "string"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Parameters:
        summary: a short sentence.
        answers: what a success sends, by status; None: nothing.
        refusals: statuses of errors, beside those of a missing key and of a body that cannot be read.
        body: the request's JSON; an empty body counts as ``{}``.
        query: query parameters.
        headers: request headers that matter.
        public: whether it is served without an API key.
        private_only: whether it exists below ``/kruise/api`` only.
    """

    summary: str
    answers: Mapping[int, Schema | None]
    refusals: Sequence[int] = ()
    body: Schema | None = None
    query: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[str, Schema] = field(default_factory=dict)
    public: bool = False
    private_only: bool = False


_CREATE = Operation(
    "Make a sandbox",
    {201: reference("Sandbox")},
    refusals=(400, 404, 409, 422, 500),
    body=reference("NewSandbox"),
    headers={"Idempotency-Key": {"type": "string", "pattern": "^[a-z0-9-]{1,255}$"}},
)
_LIST = Operation(
    "List sandboxes, newest first unless asked otherwise",
    {200: array_of("ListedSandbox")},
    refusals=(400,),
    query={
        "metadata": {"type": "string", "description": "key=value pairs, percent-encoded and joined by &"},
        "state": {"type": "string", "description": "running, paused, or both with a comma"},
        "template": _TEXT,
        "startedAfter": {"type": "string", "format": "date-time"},
        "order": {"enum": ["asc", "desc"]},
        "limit": {"type": "integer", "minimum": 1},
        "nextToken": {"type": "string", "description": "the header X-Next-Token of the page before"},
    },
)
_CONNECT = Operation(
    "Join a running sandbox; its life is only ever prolonged",
    {200: reference("Sandbox")},
    refusals=(400, 404),
    body=reference("Connect"),
)
_LIST_TEMPLATES = Operation("List templates, by name", {200: array_of("ListedTemplate")})

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/health"): Operation("Whether the manager serves", {200: reference("Health")}, public=True),
    ("GET", "/openapi.json"): Operation("This document", {200: {"type": "object"}}, public=True),
    ("POST", "/sandboxes"): _CREATE,
    ("POST", "/v2/sandboxes"): _CREATE,
    ("GET", "/sandboxes"): _LIST,
    ("GET", "/v2/sandboxes"): _LIST,
    ("GET", "/sandboxes/{sandbox_id}"): Operation(
        "One sandbox in full", {200: reference("SandboxDetail")}, refusals=(404,)
    ),
    ("DELETE", "/sandboxes/{sandbox_id}"): Operation("End a sandbox", {204: None}, refusals=(404,)),
    ("POST", "/sandboxes/{sandbox_id}/connect"): _CONNECT,
    ("POST", "/v2/sandboxes/{sandbox_id}/connect"): _CONNECT,
    ("POST", "/sandboxes/{sandbox_id}/timeout"): Operation(
        "Set the end time, sooner or later than before",
        {204: None},
        refusals=(400, 404),
        body=reference("Timeout"),
    ),
    ("PUT", "/sandboxes/{sandbox_id}/network"): Operation(
        "Replace what the sandbox may reach outside; what is left out is cleared",
        {204: None},
        refusals=(400, 404, 500),
        body=reference("Network"),
    ),
    ("POST", "/sandboxes/{sandbox_id}/traffic-access-token"): Operation(
        "A new traffic access token for a protected sandbox",
        {200: reference("TrafficToken")},
        refusals=(400, 404, 409),
        private_only=True,
    ),
    ("GET", "/templates"): _LIST_TEMPLATES,
    ("GET", "/v2/templates"): _LIST_TEMPLATES,
    ("GET", "/templates/aliases/{alias}"): Operation(
        "Whether a template of that name exists", {200: reference("TemplateAlias")}, refusals=(404,)
    ),
    ("GET", "/templates/{template_id}"): Operation(
        "One template with its builds", {200: reference("TemplateDetail")}, refusals=(404,)
    ),
    ("GET", "/templates/{template_id}/tags"): Operation(
        "The tags of a template", {200: array_of("TemplateTag")}, refusals=(404,)
    ),
}
