"""What each route is for: one row a route. Routes that are only refused describe themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .schemas import Schema, array_of, reference

_TEXT: Schema = {"type": "string"}
_UNIX_TIME: Schema = {"type": "integer", "minimum": 0, "description": "seconds; above 10^11 milliseconds"}
_MILLISECONDS: Schema = {"type": "integer", "minimum": 0, "description": "milliseconds since 1970"}
_LINES: Schema = {"type": "integer", "minimum": 0, "description": "1000 at most, which is the default"}
_DURATION: Schema = {"type": "string", "description": "as Go writes one: 90s, 1.5h, 2h45m"}


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


_PAGES: dict[str, Schema] = {
    "limit": {"type": "integer", "minimum": 1},
    "nextToken": {"type": "string", "description": "the header X-Next-Token of the page before"},
}
_CREATE = Operation(
    "Make a sandbox",
    {201: reference("Sandbox")},
    refusals=(400, 403, 404, 409, 422, 500, 507),
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
        **_PAGES,
    },
)
_CHANGED = (400, 404, 500, 507)
_CONNECT = Operation(
    "Join a sandbox: the life of a running one is only ever prolonged (200), a paused one is resumed (201)",
    {200: reference("Sandbox"), 201: reference("Sandbox")},
    refusals=(*_CHANGED, 409),
    body=reference("Connect"),
)

_ATTRIBUTES: dict[str, Schema] = {
    **{name: {"type": "integer", "minimum": 0} for name in ("uid", "gid", "mode")},
    "force": {"enum": ["false", "true"], "description": "make folders above it"},
}


def _of_volume(
    summary: str,
    answers: Mapping[int, Schema | None],
    query: Mapping[str, Schema] | None = None,
    body: Schema | None = None,
) -> Operation:
    """An operation on a path in a volume, which takes the volume's token and no key."""
    return Operation(
        summary,
        answers,
        refusals=(400, 401, 403, 404, 409, 507),
        body=body,
        query={"path": _TEXT, **(query or {})},
        headers={"Authorization": {"type": "string", "description": "Bearer and the volume's token"}},
        public=True,
    )


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/health"): Operation("Whether the manager serves", {200: reference("Health")}, public=True),
    ("GET", "/openapi.json"): Operation("This document", {200: {"type": "object"}}, public=True),
    ("POST", "/sandboxes"): _CREATE,
    ("POST", "/v2/sandboxes"): _CREATE,
    ("GET", "/sandboxes"): Operation(
        "List running sandboxes, newest first unless asked otherwise",
        _LIST.answers,
        _LIST.refusals,
        query={name: schema for name, schema in _LIST.query.items() if name != "state"},
    ),
    ("GET", "/v2/sandboxes"): _LIST,
    ("GET", "/sandboxes/{sandbox_id}"): Operation(
        "One sandbox in full", {200: reference("SandboxDetail")}, refusals=(404,)
    ),
    ("DELETE", "/sandboxes/{sandbox_id}"): Operation("End a sandbox", {204: None}, refusals=(404,)),
    ("GET", "/sandboxes/metrics"): Operation(
        "What some sandboxes use now",
        {200: reference("LastMetrics")},
        refusals=(400,),
        query={"sandbox_ids": {"type": "string", "description": "1 to 100 ids, joined by commas"}},
    ),
    ("GET", "/sandboxes/{sandbox_id}/metrics"): Operation(
        "What a sandbox used, oldest first",
        {200: array_of("Metric")},
        refusals=(400, 404),
        query={"start": _UNIX_TIME, "end": _UNIX_TIME},
    ),
    ("GET", "/sandboxes/{sandbox_id}/logs"): Operation(
        "What a sandbox's own program wrote, oldest first",
        {200: reference("Logs")},
        refusals=(400, 404),
        query={"start": _MILLISECONDS, "limit": _LINES},
    ),
    ("GET", "/v2/sandboxes/{sandbox_id}/logs"): Operation(
        "What a sandbox's own program wrote, newest first unless asked otherwise",
        {200: reference("LogEntries")},
        refusals=(400, 404),
        query={
            "cursor": _MILLISECONDS,
            "limit": _LINES,
            "direction": {"enum": ["backward", "forward"]},
            "level": {"enum": ["debug", "info", "warn", "error"], "description": "this and what is worse"},
            "search": {"type": "string", "maxLength": 256},
        },
    ),
    ("POST", "/sandboxes/{sandbox_id}/connect"): _CONNECT,
    ("POST", "/v2/sandboxes/{sandbox_id}/connect"): _CONNECT,
    ("POST", "/sandboxes/{sandbox_id}/timeout"): Operation(
        "Set the end time, sooner or later than before",
        {204: None},
        refusals=_CHANGED,
        body=reference("Timeout"),
    ),
    ("PUT", "/sandboxes/{sandbox_id}/network"): Operation(
        "Replace what the sandbox may reach outside; what is left out is cleared",
        {204: None},
        refusals=(400, 404, 500),
        body=reference("Network"),
    ),
    ("POST", "/sandboxes/{sandbox_id}/refreshes"): Operation(
        "Let a sandbox live at least some seconds more", {204: None}, refusals=_CHANGED, body=reference("Refresh")
    ),
    ("POST", "/sandboxes/{sandbox_id}/pause"): Operation(
        "Pause a sandbox, with its processes or only with its files",
        {204: None},
        refusals=_CHANGED,
        body=reference("Pause"),
        headers={"x-e2b-kruise-reserve-paused-sandbox-duration": _DURATION},
    ),
    ("POST", "/sandboxes/{sandbox_id}/resume"): Operation(
        "Resume a paused sandbox", {201: reference("Sandbox")}, refusals=(*_CHANGED, 409), body=reference("Connect")
    ),
    ("POST", "/sandboxes/{sandbox_id}/snapshots"): Operation(
        "Copy the files of a running sandbox",
        {201: reference("Snapshot")},
        refusals=_CHANGED,
        body=reference("NewSnapshot"),
        headers={
            "x-e2b-kruise-snapshot-ttl": _DURATION,
            "x-e2b-kruise-snapshot-keep-running": _TEXT,
            "x-e2b-kruise-snapshot-persistent-contents": _TEXT,
            "x-e2b-kruise-snapshot-wait-success-seconds": _TEXT,
        },
    ),
    ("POST", "/sandboxes/{sandbox_id}/fork"): Operation(
        "Make sandboxes with the files of a running one",
        {201: array_of("Fork")},
        refusals=(*_CHANGED, 409),
        body=reference("NewForks"),
    ),
    ("GET", "/snapshots"): Operation(
        "List snapshots, newest first",
        {200: array_of("Snapshot")},
        refusals=(400,),
        query={
            "sandboxID": _TEXT,
            "name": _TEXT,
            **_PAGES,
        },
    ),
    ("DELETE", "/templates/{template_id}"): Operation("Remove a snapshot", {204: None}, refusals=(400, 404, 507)),
    ("POST", "/sandboxes/{sandbox_id}/traffic-access-token"): Operation(
        "A new traffic access token for a protected sandbox",
        {200: reference("TrafficToken")},
        refusals=(400, 404, 409),
        private_only=True,
    ),
    ("GET", "/volumes"): Operation("List volumes, oldest first", {200: array_of("ListedVolume")}),
    ("POST", "/volumes"): Operation(
        "Make an empty volume", {201: reference("Volume")}, refusals=(400, 500, 507), body=reference("NewVolume")
    ),
    ("GET", "/volumes/{volume_id}"): Operation("One volume", {200: reference("Volume")}, refusals=(404,)),
    ("DELETE", "/volumes/{volume_id}"): Operation(
        "Destroy a volume with all that is in it", {204: None}, refusals=(404, 409, 507)
    ),
    ("GET", "/secrets"): Operation(
        "List secrets, oldest first, in pages", {200: array_of("Secret")}, refusals=(400,), query=_PAGES
    ),
    ("POST", "/secrets"): Operation(
        "Keep a secret", {201: reference("Secret")}, refusals=(400, 409, 507), body=reference("NewSecret")
    ),
    ("GET", "/secrets/{secret_id}"): Operation(
        "One secret, by id or name, without its value", {200: reference("Secret")}, refusals=(404,)
    ),
    ("POST", "/secrets/{secret_id}"): Operation(
        "Keep another value of a secret",
        {200: reference("Secret")},
        refusals=(400, 404, 507),
        body=reference("SecretUpdate"),
    ),
    ("DELETE", "/secrets/{secret_id}"): Operation("Destroy a secret", {204: None}, refusals=(404, 507)),
    ("GET", "/volumecontent/{volume_id}/dir"): _of_volume(
        "What is in a folder of a volume",
        {200: array_of("VolumeEntry")},
        query={"depth": {"type": "integer", "minimum": 1, "maximum": 64}},
    ),
    ("POST", "/volumecontent/{volume_id}/dir"): _of_volume(
        "Make a folder", {201: reference("VolumeEntry")}, query=_ATTRIBUTES
    ),
    ("GET", "/volumecontent/{volume_id}/file"): _of_volume("The bytes of a file", {200: None}),
    ("PUT", "/volumecontent/{volume_id}/file"): _of_volume(
        "Write a file", {201: reference("VolumeEntry")}, query=_ATTRIBUTES
    ),
    ("GET", "/volumecontent/{volume_id}/path"): _of_volume("One file, folder or link", {200: reference("VolumeEntry")}),
    ("PATCH", "/volumecontent/{volume_id}/path"): _of_volume(
        "Set owner, group and permissions", {200: reference("VolumeEntry")}, body=reference("VolumeAttributes")
    ),
    ("DELETE", "/volumecontent/{volume_id}/path"): _of_volume(
        "Remove a file, or a folder with all that is in it", {204: None}
    ),
    ("GET", "/teams"): Operation("The caller's team; for the admin team every team", {200: array_of("Team")}),
    ("GET", "/api-keys/compatible"): Operation(
        "The caller's own key in the form that every SDK accepts", {200: reference("CompatibleKey")}
    ),
    ("GET", "/api-keys"): Operation(
        "List the keys of a team, oldest first", {200: array_of("ApiKey")}, refusals=(403,), query={"teamName": _TEXT}
    ),
    ("POST", "/api-keys"): Operation(
        "Make a key, which is told this once",
        {201: reference("MadeApiKey")},
        refusals=(400, 403, 507),
        body=reference("NewApiKey"),
    ),
    ("DELETE", "/api-keys/{key_id}"): Operation(
        "Delete a key; what belonged to it belongs to the admin key", {204: None}, refusals=(403, 404, 507)
    ),
    ("GET", "/templates"): Operation("List templates, by name", {200: array_of("ListedTemplate")}),
    ("GET", "/v2/templates"): Operation(
        "List templates, by name, in pages", {200: array_of("ListedTemplate")}, refusals=(400,), query=_PAGES
    ),
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
