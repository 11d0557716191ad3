"""Sandboxes and templates as the SDK reads them. Required keys of every SDK release are always there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..runtime import EgressRules
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.service import SandboxService
from ..templates.model import Template, Templates
from ..traffic_tokens import TrafficToken

ENVD_VERSION = "0.6.13"
"""The last public envd; opens every gate of e2b 2.8.0 ... 2.63.0."""

NO_END = "0001-01-01T00:00:00Z"
"""The end time of a sandbox that has none, as OpenKruise's manager writes it."""
_CLIENT_ID = "6532622b"


@dataclass(frozen=True, slots=True)
class TemplateBuild:
    """What sandboxes can be made from, under the names and the tag that lead to it."""

    template: Template
    names: tuple[str, ...]
    tag: str
    created_at: datetime
    public: bool = True


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds, as ``2026-01-31T10:00:00.123456Z``."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def shown_state(sandbox: Sandbox) -> str:
    """``running`` or ``paused``; the SDK knows no other state."""
    return "paused" if sandbox.state.resting else "running"


def sandbox_reply(sandbox: Sandbox, domain: str | None) -> dict[str, Any]:
    """The answer to create and connect."""
    return {
        "templateID": sandbox.template.name,
        "sandboxID": sandbox.id,
        "clientID": _CLIENT_ID,
        "alias": sandbox.template.name,
        "envdVersion": ENVD_VERSION,
        "envdAccessToken": sandbox.access_token,
        "trafficAccessToken": None if sandbox.protected else sandbox.traffic_token,
        "domain": domain,
    }


def new_token_fields(sandboxes: SandboxService, sandbox: Sandbox) -> dict[str, Any]:
    """What the answer to a create says about the token: only a protected sandbox has one."""
    if not sandbox.protected:
        return {}
    return token_fields(sandboxes.traffic_tokens.issue(sandbox.id, sandbox.uid))


def token_fields(token: TrafficToken) -> dict[str, Any]:
    """Return the value and the end of a traffic access token."""
    return {
        "trafficAccessToken": token.value,
        "trafficAccessTokenExpiration": token.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def sandbox_listed(sandbox: Sandbox) -> dict[str, Any]:
    """One entry of a list."""
    return {
        "templateID": sandbox.template.name,
        "sandboxID": sandbox.id,
        "clientID": _CLIENT_ID,
        "alias": sandbox.template.name,
        "startedAt": timestamp(sandbox.started_at),
        "endAt": timestamp(sandbox.end_at) if sandbox.end_at else NO_END,
        "cpuCount": sandbox.template.cpu_count,
        "memoryMB": sandbox.template.memory_mb,
        "diskSizeMB": sandbox.template.disk_size_mb,
        "state": shown_state(sandbox),
        "envdVersion": ENVD_VERSION,
        "metadata": dict(sandbox.metadata),
        "volumeMounts": [{"name": mount.name, "path": mount.path} for mount in sandbox.volume_mounts],
    }


def sandbox_detail(sandbox: Sandbox, domain: str | None) -> dict[str, Any]:
    """The answer to get."""
    lifetime = sandbox.lifetime
    detail = {
        **sandbox_listed(sandbox),
        "envdAccessToken": sandbox.access_token,
        "domain": None if sandbox.state.resting else domain,
        "lifecycle": {
            "autoResume": lifetime.wakes_on_traffic,
            "onTimeout": "pause" if lifetime.pause_at_end else "kill",
        },
        "allowInternetAccess": not sandbox.rules.everything_denied,
    }
    public = sandbox.traffic_token is None
    if sandbox.rules != EgressRules() or not public:
        detail["network"] = {
            "allowOut": [str(one) for one in sandbox.rules.allowed],
            "denyOut": [str(one) for one in sandbox.rules.denied],
            "allowPublicTraffic": public,
        }
    if sandbox.state.resting:
        detail["pauseMode"] = "full" if sandbox.keeps_memory else "filesystem"
    return detail


def template_listed(template: Template, templates: Templates) -> dict[str, Any]:
    """One entry of a list of templates."""
    created = timestamp(templates.created_at)
    return {
        "templateID": template.name,
        "buildID": template.build_id,
        "cpuCount": template.cpu_count,
        "memoryMB": template.memory_mb,
        "diskSizeMB": template.disk_size_mb,
        "public": True,
        "aliases": [template.name],
        "names": [template.name],
        "createdAt": created,
        "updatedAt": created,
        "createdBy": None,
        "lastSpawnedAt": None,
        "spawnCount": 0,
        "buildCount": 1,
        "envdVersion": ENVD_VERSION,
        "buildStatus": "ready",
    }


def template_detail(builds: Sequence[TemplateBuild]) -> dict[str, Any]:
    """The answer to get for a template, with its builds, of which there is one at least; newest first."""
    newest = builds[0]
    created = timestamp(newest.created_at)
    return {
        "templateID": newest.template.name,
        "public": newest.public,
        "aliases": list(newest.names),
        "names": list(newest.names),
        "createdAt": created,
        "updatedAt": created,
        "lastSpawnedAt": None,
        "spawnCount": 0,
        "builds": [_build(build) for build in builds],
    }


def _build(build: TemplateBuild) -> dict[str, Any]:
    created = timestamp(build.created_at)
    return {
        "buildID": build.template.build_id,
        "status": "ready",
        "createdAt": created,
        "updatedAt": created,
        "finishedAt": created,
        "cpuCount": build.template.cpu_count,
        "memoryMB": build.template.memory_mb,
        "diskSizeMB": build.template.disk_size_mb,
        "envdVersion": ENVD_VERSION,
    }
