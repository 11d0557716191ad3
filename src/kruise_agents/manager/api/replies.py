"""The JSON of sandboxes in the API's answers. A key that at least one SDK release requires is never left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NotRequired, TypedDict

from ..runtime import EgressRules
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.service import SandboxService
from ..traffic_tokens import TrafficToken
from .formats import Range, Timestamp, timestamp
from .reading import Spec

ENVD_VERSION = "0.6.13"
"""The version of envd in answers: envd's last public version, with which e2b 2.8.0 ... 2.63.0 use every feature."""

NO_END = "0001-01-01T00:00:00Z"
"""The end time of a sandbox that has none, as OpenKruise's manager writes it."""
_CLIENT_ID = "6532622b"
_TemplateID = Annotated[str, Spec(description="the name of the template, or the ID of the snapshot")]
_ClientID = Annotated[str, Spec(description="always the same; SDKs require it")]
_Alias = Annotated[str, Spec(description="as templateID")]
_EnvdVersion = Annotated[str, Spec(description="tells the SDK which features envd has")]
_AccessToken = Annotated[str | None, Spec(description="opens envd and runs code; null: created with secure: false")]


class SandboxReply(TypedDict):
    """A sandbox in the answer to a create, connect, resume or fork request."""

    templateID: _TemplateID
    sandboxID: str
    clientID: _ClientID
    alias: _Alias
    envdVersion: _EnvdVersion
    envdAccessToken: _AccessToken
    trafficAccessToken: Annotated[
        str | None,
        Spec(
            description="opens the ports of the sandbox; null: they ask for no token, or the sandbox is protected and "
            "this answers a connect or resume"
        ),
    ]
    domain: Annotated[str, Spec(description="the domain of the addresses of the sandbox")]
    trafficAccessTokenExpiration: NotRequired[
        Annotated[Timestamp, Spec(description="only in the answer to the create or fork of a protected sandbox")]
    ]


class TrafficTokenReply(TypedDict):
    """A traffic access token and its expiry."""

    trafficAccessToken: str
    trafficAccessTokenExpiration: Timestamp


class _MountedVolumeReply(TypedDict):
    name: str
    path: str


class ListedSandboxReply(TypedDict):
    """An entry of a list of sandboxes."""

    templateID: _TemplateID
    sandboxID: str
    clientID: _ClientID
    alias: _Alias
    startedAt: Annotated[Timestamp, Spec(description="the time of the start or of the last resume")]
    endAt: Annotated[
        Timestamp, Spec(description="the end time; of a paused sandbox that has an end time, the time of the pause")
    ]
    cpuCount: int
    memoryMB: int
    diskSizeMB: int
    state: Literal["running", "paused"]
    envdVersion: _EnvdVersion
    metadata: Mapping[str, str]
    volumeMounts: Sequence[_MountedVolumeReply]


class _LifecycleReply(TypedDict):
    autoResume: Annotated[bool, Spec(description="traffic resumes the sandbox when it is paused")]
    onTimeout: Annotated[Literal["kill", "pause"], Spec(description="what happens at the end time")]


class _NetworkRulesReply(TypedDict):
    allowOut: Annotated[Sequence[str], Spec(description="CIDRs and host names; an allowed address beats a denied one")]
    denyOut: Annotated[
        Sequence[Range],
        Spec(
            description="CIDRs; 0.0.0.0/0 also for allow_internet_access: false or a template without internet access"
        ),
    ]
    allowPublicTraffic: Annotated[
        bool, Spec(description="false: requests to its ports, except envd's, need a traffic access token")
    ]


class SandboxDetailReply(ListedSandboxReply):
    """The answer to ``GET /sandboxes/{sandbox_id}``."""

    envdAccessToken: _AccessToken
    domain: Annotated[
        str | None, Spec(description="the domain of the addresses of the sandbox; null while it is paused")
    ]
    lifecycle: _LifecycleReply
    allowInternetAccess: Annotated[
        bool, Spec(description="false: the rules deny everything outside that allowOut does not name")
    ]
    pauseMode: NotRequired[
        Annotated[
            Literal["full", "filesystem"],
            Spec(description="of a paused sandbox: with its processes, or only its files"),
        ]
    ]
    network: NotRequired[
        Annotated[_NetworkRulesReply, Spec(description="missing: no rules, and allowPublicTraffic is true")]
    ]


def shown_state(sandbox: Sandbox) -> Literal["running", "paused"]:
    """Return the state of a sandbox as clients see it. The SDK knows only the states ``running`` and ``paused``."""
    return "paused" if sandbox.state.shown_as_paused else "running"


def sandbox_reply(sandbox: Sandbox, domain: str) -> SandboxReply:
    """Return the answer to a connect or resume request."""
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


def created_reply(sandbox: Sandbox, domain: str, sandboxes: SandboxService) -> SandboxReply:
    """Return the JSON of a created or forked sandbox. For a protected sandbox, add a new traffic access token."""
    reply = sandbox_reply(sandbox, domain)
    if sandbox.protected:
        token = token_reply(sandboxes.traffic_tokens.issue(sandbox.id, sandbox.uid))
        reply["trafficAccessToken"] = token["trafficAccessToken"]
        reply["trafficAccessTokenExpiration"] = token["trafficAccessTokenExpiration"]
    return reply


def token_reply(token: TrafficToken) -> TrafficTokenReply:
    """Return the value and the expiry of a traffic access token as JSON."""
    return {
        "trafficAccessToken": token.value,
        "trafficAccessTokenExpiration": token.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def sandbox_listed(sandbox: Sandbox) -> ListedSandboxReply:
    """Return a sandbox's entry in a list of sandboxes."""
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


def sandbox_detail(sandbox: Sandbox, domain: str) -> SandboxDetailReply:
    """Return the answer to ``GET /sandboxes/{sandbox_id}``."""
    lifetime = sandbox.lifetime
    detail: SandboxDetailReply = {
        **sandbox_listed(sandbox),  # type: ignore[typeddict-item]  # mypy: the entry may have other keys of those names
        "envdAccessToken": sandbox.access_token,
        "domain": None if sandbox.state.shown_as_paused else domain,
        "lifecycle": {
            "autoResume": lifetime.wakes_on_traffic,
            "onTimeout": "pause" if lifetime.pause_at_end else "kill",
        },
        "allowInternetAccess": not sandbox.rules.everything_denied,
    }
    public = sandbox.traffic_token is None
    if sandbox.rules != EgressRules() or not public:
        detail["network"] = {
            "allowOut": [*map(str, sandbox.rules.allowed), *sandbox.rules.names],
            "denyOut": [str(block) for block in sandbox.rules.denied],
            "allowPublicTraffic": public,
        }
    if sandbox.state.shown_as_paused:
        detail["pauseMode"] = "full" if sandbox.keeps_memory else "filesystem"
    return detail
