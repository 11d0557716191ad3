"""Facts about a sandbox-manager without the v2 routes, as pure functions of methods, paths and bodies.

Paths begin after the base URL of the API. Source: OpenKruise's manager of August 2026. Each route of that manager also
matches all longer paths below its path, so a request for an unknown path may reach the handler of such a route.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ...errors import UnsupportedByManagerError

DEFAULT_TIMEOUT = 300
"""The time-out in seconds that the v2 routes use for a request without ``timeout``."""

_ONE_SANDBOX = frozenset({"GET", "DELETE"})
_OF_A_SANDBOX = frozenset(
    {
        ("POST", "connect"),
        ("POST", "pause"),
        ("POST", "resume"),
        ("POST", "snapshots"),
        ("POST", "timeout"),
        ("PUT", "network"),
    }
)
_ONLY_PRIVATE = ("POST", "traffic-access-token")
_NAMES = {
    "aliases": "looking up a template by its name",
    "builds": "the state of a template build",
    "files": "uploading files of a template build",
    "fork": "forking a sandbox",
    "logs": "sandbox logs",
    "metrics": "sandbox metrics",
    "refreshes": "refreshing a sandbox",
    "tags": "template tags",
    "traffic-access-token": "traffic access tokens over the native protocol",
}
_READ = frozenset(
    {
        "templateID",
        "timeout",
        "autoPause",
        "allow_internet_access",
        "metadata",
        "envVars",
        "volumeMounts",
        "network.allowOut",
        "network.denyOut",
    }
)
"""Fields of a create or a connect that an older manager reads."""
_SAYS_NOTHING: dict[str, tuple[Any, ...]] = {
    "secure": (True, False),  # v1_body sends True for both
    "autoPauseMemory": (True,),
    "autoResume": ({"enabled": False},),
    "memory": (True,),
    "network.allowPublicTraffic": (True,),
}
"""Values of other fields that an older manager may ignore, because a sandbox behaves in that way anyway."""


def v1_path(method: str, path: str) -> str | None:
    """Return an older manager's path for a v2 request that creates a sandbox or connects to one; None for others."""
    match method, path.split("/"):
        case "POST", ["", "v2", "sandboxes"]:
            return "/sandboxes"
        case "POST", ["", "v2", "sandboxes", sandbox_id, "connect"] if sandbox_id:
            return f"/sandboxes/{sandbox_id}/connect"
    return None


def v1_body(path: str, body: bytes) -> bytes:
    """Return the body for the older route; raise UnsupportedByManagerError if that route would lose an option."""
    fields = json.loads(body or b"{}")
    lost = list(_lost(fields))
    if lost:
        raise UnsupportedByManagerError(
            f"this sandbox-manager has no v2 routes, and its older ones ignore {', '.join(lost)}, so the call "
            f"was given up. Leave it out, or use a newer manager"
        )
    if fields.get("timeout") is None:
        fields["timeout"] = DEFAULT_TIMEOUT
    if path == "/sandboxes":
        fields["secure"] = True
    return json.dumps(fields, separators=(",", ":")).encode()


def _lost(fields: dict[str, Any]) -> Iterator[str]:
    network = fields.get("network") or {}
    everything = {**fields, "network": None, **{f"network.{name}": value for name, value in network.items()}}
    for name, value in everything.items():
        if name not in _READ and value not in (None, *_SAYS_NOTHING.get(name, ())):
            yield f"{name}: false" if value is False else name


def misread(method: str, path: str, *, private: bool) -> str | None:
    """Return None if an older manager reads the request correctly; otherwise a name of the request, for an error."""
    match path.removeprefix("/").split("/"):
        case ["sandboxes", "metrics"]:
            return _NAMES["metrics"]
        case ["sandboxes", _]:
            known = method in _ONE_SANDBOX
        case ["sandboxes", _, action]:
            known = (method, action) in _OF_A_SANDBOX or (private and (method, action) == _ONLY_PRIVATE)
        case ["sandboxes", _, *_] | ["v2", "sandboxes", _, *_] | ["snapshots", _, *_]:
            known = False
        case ["templates", "tags"]:
            known = method != "DELETE"  # an older manager would delete the template "tags"
        case ["templates", _, _, *_]:
            known = False
        case _:
            known = True
    return None if known else _name(method, path)


def _name(method: str, path: str) -> str:
    named = (_NAMES[part] for part in path.split("/")[2:] if part in _NAMES)
    return next(named, f"{method} {path}")


def is_no_route(status: int, body: bytes) -> bool:
    """Return whether an answer shows that no handler ran: 405, or a 404 whose body is no JSON object."""
    return status == 405 or (status == 404 and not _is_object(body))


def is_refused_body(status: int, body: bytes) -> bool:
    """Return whether an answer shows that a handler refused the body: 400 or 422, with a JSON object."""
    return status in (400, 422) and _is_object(body)


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False
