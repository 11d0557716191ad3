"""Table of the requests that OpenKruise's sandbox-manager understands, as of August 2026.

Of E2B's v2 routes, that manager has only the list of sandboxes. It ignores fields and query keys that it does not
know, and a path below a route reaches that route's handler: ``POST /sandboxes/<id>/fork`` creates a sandbox. The client
decides by this table which requests such a manager would misread; ``serve --like openkruise`` misreads them.

Sources, named in each row: files of ``pkg/servers/e2b`` in openkruise/agents at commit 0b72c83ae0bc (2026-08-22), and
"seen": answers of that manager when it ran. Paths begin after the base URL of the API.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_TIMEOUT = 300
"""The time-out in seconds that E2B's v2 routes use for a request without ``timeout``."""
MOST_PER_PAGE = 100
"""The highest ``limit`` of a list, and the limit of a list without ``limit``."""
ALL_TRAFFIC = "0.0.0.0/0"
NEXT_TOKEN_HEADER = "x-next-token"  # noqa: S105 - the name of a header
PERSISTENT_CONTENTS_HEADER = "x-e2b-kruise-snapshot-persistent-contents"


@dataclass(frozen=True)
class Route:
    """A route of the manager, and all that its handler reads of a request.

    Attributes:
        path: a part in braces stands for any part that is not empty.
        reads: fields of the body that change what happens. ``network.allowOut`` is a field of the object ``network``.
        assumes: fields that the handler ignores, each with the values for which that makes no difference.
        query: query keys that the handler reads. Other keys are ignored, except that ``LIST`` takes them for metadata.
        headers: headers that the handler reads, in lower case, besides those that every handler reads.
        only_private: the route exists below ``/kruise/api`` only. Every other route exists without that prefix too.
    """

    method: str
    path: str
    source: str
    reads: frozenset[str] = frozenset()
    assumes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    query: frozenset[str] = frozenset()
    headers: frozenset[str] = frozenset()
    only_private: bool = False

    def is_at(self, path: str) -> bool:
        """Return whether ``path`` is a path of this route itself."""
        return self._covers(path) and path.count("/") == self.path.count("/")

    def is_above(self, path: str) -> bool:
        """Return whether ``path`` is below this route's path, such as ``/snapshots/x`` below ``/snapshots``."""
        return self._covers(path) and path.count("/") > self.path.count("/")

    def _covers(self, path: str) -> bool:
        parts, own = path.split("/"), self.path.split("/")
        return len(parts) >= len(own) and all(
            bool(part) if mine.startswith("{") else part == mine for mine, part in zip(own, parts, strict=False)
        )


_NETWORK = frozenset({"allowOut", "denyOut"})
_RULES: Mapping[str, tuple[Any, ...]] = {"rules": ({},)}
_PAGES = frozenset({"limit", "nextToken"})

CREATE = Route(
    "POST",
    "/sandboxes",
    "create.go, models/sandbox.go; seen: allow_internet_access only sets a label, and the sandbox is always secured",
    frozenset({"templateID", "timeout", "autoPause", "metadata", "envVars", "volumeMounts"})
    | {f"network.{name}" for name in _NETWORK},
    {
        "secure": (True, False),  # the SDK sends the access token that it gets, whatever it asked for
        "allow_internet_access": (True,),
        "autoPauseMemory": (True,),  # as a pause: see PAUSE
        "autoResume": ({"enabled": False},),
        "network.allowPublicTraffic": (True,),
        **{f"network.{name}": values for name, values in _RULES.items()},
    },
)
LIST = Route(
    "GET",
    "/v2/sandboxes",
    "list.go; seen: any other key and its first value are a filter, so order, template and startedAfter give nothing",
    query=_PAGES | {"metadata", "state"},
)
UPDATE_NETWORK = Route(
    "PUT",
    "/sandboxes/{sandboxID}/network",
    "network.go; seen: replaces all rules, so a body without allowOut and denyOut removes them",
    _NETWORK,
    {"allow_internet_access": (True,), **_RULES},
)
PAUSE = Route(
    "POST",
    "/sandboxes/{sandboxID}/pause",
    "pause_resume.go: reads no body; seen: the pod ends, and processes and files with it",
    assumes={"memory": (True,), "requireHealthyGuest": (False,)},
    headers=frozenset({"x-e2b-kruise-reserve-paused-sandbox-duration"}),
)
CONNECT = Route(
    "POST",
    "/sandboxes/{sandboxID}/connect",
    "pause_resume.go; seen: 400 without timeout",
    frozenset({"timeout"}),
    {"memory": (True,)},
)
SNAPSHOT = Route(
    "POST",
    "/sandboxes/{sandboxID}/snapshots",
    "snapshot.go, models/extensions.go; seen: name changes nothing, and a snapshot never has names",
    headers=frozenset(
        {
            "x-e2b-kruise-snapshot-keep-running",
            "x-e2b-kruise-snapshot-ttl",
            PERSISTENT_CONTENTS_HEADER,
            "x-e2b-kruise-snapshot-wait-success-seconds",
        }
    ),
)

ROUTES: tuple[Route, ...] = (
    CREATE,
    LIST,
    Route("GET", "/sandboxes/{sandboxID}", "services.go; seen"),
    Route("DELETE", "/sandboxes/{sandboxID}", "services.go; seen: so does DELETE /sandboxes/<id>/anything"),
    UPDATE_NETWORK,
    PAUSE,
    Route(
        "POST",
        "/sandboxes/{sandboxID}/resume",
        "pause_resume.go",
        frozenset({"timeout"}),
        {"autoPause": (False,), "memory": (True,)},
    ),
    CONNECT,
    Route("POST", "/sandboxes/{sandboxID}/timeout", "timeout.go; seen", frozenset({"timeout"})),
    SNAPSHOT,
    Route("GET", "/snapshots", "list.go: a key besides these is ignored", query=_PAGES | {"sandboxID"}),
    Route("GET", "/templates", "templates.go; seen"),
    Route("GET", "/templates/{templateID}", "templates.go; seen: the ID of a template is its name"),
    Route("DELETE", "/templates/{templateID}", "templates.go; seen: deletes a snapshot"),
    Route("GET", "/browser/{sandboxID}/json/version", "services.go; seen", query=frozenset({"cdpPort"})),
    Route("GET", "/debug", "routes.go; seen"),
    Route(
        "POST", "/sandboxes/{sandboxID}/traffic-access-token", "routes.go; seen: natively a create", only_private=True
    ),
    Route("GET", "/teams", "api_key.go; seen"),
    Route("GET", "/api-keys/compatible", "api_key.go; seen"),
    Route("GET", "/api-keys", "api_key.go; seen"),
    Route(
        "POST",
        "/api-keys",
        "api_key.go; seen: an unknown field is 400",
        frozenset({"name", "teamName", "quota"}),
    ),
    Route("DELETE", "/api-keys/{apiKeyID}", "api_key.go; seen"),
)

TAKEN_FOR_IDS = frozenset({("GET", "/sandboxes/metrics"), ("DELETE", "/templates/tags")})
"""Routes of E2B whose last part the manager takes for the ID of a sandbox or a template."""


def route_at(method: str, path: str, *, private: bool = True) -> Route | None:
    """Return the route of a request, or None. ``private``: the request came below ``/kruise/api``."""
    method = "GET" if method == "HEAD" else method
    found = [route for route in _routes(private) if route.method == method and route.is_at(path)]
    return max(found, key=_literal_parts, default=None)


def handler_of(method: str, path: str, *, private: bool = True) -> Route | None:
    """Return the route whose handler gets a request: the request's own, or else the nearest one above its path.

    None: no handler gets the request. The manager answers 405 if another method has a handler, and 404 otherwise.
    """
    method = "GET" if method == "HEAD" else method
    own = route_at(method, path, private=private)
    above = [route for route in _routes(private) if route.method == method and route.is_above(path)]
    return own or max(above, key=lambda route: (route.path.count("/"), _literal_parts(route)), default=None)


def allowed_methods(path: str, *, private: bool = True) -> list[str]:
    """Return the methods in the ``Allow`` header of a 405 for ``path``, sorted; an empty list if the answer is 404."""
    methods = {route.method for route in _routes(private) if route.is_at(path) or route.is_above(path)}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


def unread_fields(route: Route, fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a body, with their values, that ask for something that the manager does not do."""
    for name, value in _flat(route, fields):
        if value is not None and name not in route.reads and value not in route.assumes.get(name, ()):
            yield name, value


def unread_query(route: Route, keys: Iterable[str]) -> list[str]:
    """Return the query keys that the manager ignores or takes for metadata."""
    return [key for key in keys if key not in route.query]


def _flat(route: Route, fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    objects = {name.partition(".")[0] for name in (*route.reads, *route.assumes) if "." in name}
    for name, value in fields.items():
        if name in objects and isinstance(value, dict):
            yield from ((f"{name}.{inner}", inner_value) for inner, inner_value in value.items())
        else:
            yield name, value


def _routes(private: bool) -> Iterator[Route]:
    return (route for route in ROUTES if private or not route.only_private)


def _literal_parts(route: Route) -> int:
    return sum(not part.startswith("{") for part in route.path.split("/"))
