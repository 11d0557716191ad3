"""The JSON of OpenKruise's manager. One shape of a sandbox serves every route."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from starlette.responses import Response

from ...protocol.names import EXTENSION_PREFIX
from ..api.replies import NO_END, shown_state, token_reply
from ..request_log import current_request_id
from ..runtime import EgressRules
from ..sandboxes.sandbox import Sandbox
from ..traffic_tokens import TrafficToken

ENVD_VERSION = "0.2.10"
TEMPLATE_ENVD_VERSION = "0.1.1"
NAMESPACE = "default"
"""The namespace in the names of resources. This manager has none; tests of OpenKruise's use this one."""
_JSON = {"Content-Type": "application/json"}
_LONGEST_PAUSE = timedelta(days=100 * 365)
_NO_RESOURCES = {"cpuCount": 0, "memoryMB": 0, "diskSizeMB": 0}
"""The resources of a pod without limits. The limits of the sandboxes here are not shown."""


def answer(status: int, value: object = None, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer with ``value`` as JSON; without a value, the answer has no body, but the same media type."""
    body = b"" if value is None else json.dumps(value).encode() + b"\n"
    return Response(body, status, {**_JSON, **(headers or {})})


def error(status: int, code: int, message: str) -> Response:
    """Return the answer for an error."""
    return answer(status, {"code": code, "message": message, "request_id": current_request_id()})


def text(status: int, words: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer in plain text, as Go's router gives."""
    return Response(f"{words}\n", status, {"Content-Type": "text/plain; charset=utf-8", **(headers or {})})


def moment(when: datetime) -> str:
    """Return a UTC time in whole seconds."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def resource(sandbox: Sandbox) -> str:
    """Return the name of the object that Kubernetes would have for a sandbox."""
    return f"{NAMESPACE}/{sandbox.id}"


def listed(sandbox: Sandbox, domain: str) -> dict[str, Any]:
    """Return the entry of a sandbox in a list."""
    return _sandbox(sandbox, domain, {})


def shown(sandbox: Sandbox, domain: str, token: TrafficToken | None = None) -> dict[str, Any]:
    """Return the answer to a create or connect. ``token`` is the traffic access token of a new, protected sandbox."""
    tokens: dict[str, Any] = {"envdAccessToken": sandbox.access_token}
    if token is not None:
        tokens.update(token_reply(token))
    return _sandbox(sandbox, domain, tokens)


def detail(sandbox: Sandbox, domain: str) -> dict[str, Any]:
    """Return the answer to a get, the only one with network rules."""
    reply = shown(sandbox, domain)
    if sandbox.rules != EgressRules():
        reply["network"] = {
            "allowOut": [*map(str, sandbox.rules.allowed), *sandbox.rules.names],
            "denyOut": [str(block) for block in sandbox.rules.denied],
        }
    return reply


def _sandbox(sandbox: Sandbox, domain: str, tokens: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "templateID": sandbox.template.name,
        "sandboxID": sandbox.id,
        "clientID": "",
        "startedAt": moment(sandbox.started_at),
        "endAt": _end(sandbox),
        "envdVersion": ENVD_VERSION,
        **tokens,
        "domain": domain,
        **_NO_RESOURCES,
        "alias": "",
        # Labels and annotations of the pod stand here too, which Kubernetes and its controllers set. Not imitated.
        "metadata": {**sandbox.metadata, f"{EXTENSION_PREFIX}sandbox-resource": resource(sandbox)},
        "state": shown_state(sandbox),
    }


def _end(sandbox: Sandbox) -> str:
    """Return the end time, or the time of deletion if the sandbox is paused; ``NO_END`` if the sandbox never ends."""
    if sandbox.end_at is None:
        return NO_END
    if not sandbox.state.shown_as_paused:
        return moment(sandbox.end_at)
    return moment(sandbox.kept_until or sandbox.end_at + _LONGEST_PAUSE)


def template_listed(name: str, created_at: datetime) -> dict[str, Any]:
    """Return the entry of a template in the list of templates."""
    return {
        "templateID": name,
        "buildID": name,
        **_NO_RESOURCES,
        **_template(name, created_at),
        "createdBy": None,
        "buildCount": 1,
        "envdVersion": TEMPLATE_ENVD_VERSION,
        "buildStatus": "ready",
    }


def template_detail(name: str, created_at: datetime) -> dict[str, Any]:
    """Return a template with its only build."""
    created = moment(created_at)
    build = {
        "buildID": name,
        "status": "ready",
        "createdAt": created,
        "updatedAt": created,
        "finishedAt": created,
        **_NO_RESOURCES,
        "envdVersion": TEMPLATE_ENVD_VERSION,
    }
    return {"templateID": name, **_template(name, created_at), "builds": [build]}


def _template(name: str, created_at: datetime) -> dict[str, Any]:
    created = moment(created_at)
    return {
        "public": True,
        "aliases": [name],
        "names": [name],
        "createdAt": created,
        "updatedAt": created,
        "lastSpawnedAt": None,
        "spawnCount": 0,
    }
