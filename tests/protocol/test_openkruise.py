"""The table of OpenKruise's manager: which handler gets which request, and what the handler does not read."""

from __future__ import annotations

from typing import Any

import pytest

from kruise_agents.protocol.openkruise import (
    CONNECT,
    CREATE,
    LIST,
    PAUSE,
    ROUTES,
    SNAPSHOT,
    UPDATE_NETWORK,
    Route,
    allowed_methods,
    handler_of,
    route_at,
    unread_fields,
    unread_query,
)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_row_names_its_source_and_is_found_by_its_path(route: Route) -> None:
    assert ".go" in route.source
    path = "/".join("i1" if part.startswith("{") else part for part in route.path.split("/"))
    assert route_at(route.method, path) is route
    assert handler_of(route.method, path) is route


SEEN = [
    ("POST", "/sandboxes/", "POST /sandboxes"),
    ("POST", "/sandboxes/i1", "POST /sandboxes"),
    ("POST", "/sandboxes/i1/fork", "POST /sandboxes"),
    ("POST", "/sandboxes/i1/network", "POST /sandboxes"),
    ("POST", "/sandboxes/i1/pause/x", "POST /sandboxes/{sandboxID}/pause"),
    ("GET", "/sandboxes/i1/metrics", "GET /sandboxes/{sandboxID}"),
    ("HEAD", "/sandboxes/i1/", "GET /sandboxes/{sandboxID}"),
    ("DELETE", "/sandboxes/i1/anything", "DELETE /sandboxes/{sandboxID}"),
    ("GET", "/v2/sandboxes/i1/logs", "GET /v2/sandboxes"),
    ("GET", "/snapshots/s1", "GET /snapshots"),
    ("GET", "/templates/aliases/a", "GET /templates/{templateID}"),
    ("GET", "/api-keys/x", "GET /api-keys"),
    ("GET", "/teams/t/metrics", "GET /teams"),
    ("GET", "/browser/i1/json/version/", "GET /browser/{sandboxID}/json/version"),
]


@pytest.mark.parametrize(("method", "path", "expected"), SEEN)
def test_a_path_below_a_route_reaches_its_handler(method: str, path: str, expected: str) -> None:
    handler = handler_of(method, path)
    assert handler is not None
    assert f"{handler.method} {handler.path}" == expected
    assert route_at(method, path) is None


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2/sandboxes", "GET, HEAD"),
        ("POST", "/v2/sandboxes/i1/connect", "GET, HEAD"),
        ("GET", "/sandboxes", "POST"),
        ("GET", "/sandboxes/", "POST"),
        ("PATCH", "/sandboxes/i1", "DELETE, GET, HEAD, POST"),
        ("PUT", "/sandboxes/i1/metadata", "DELETE, GET, HEAD, POST"),
        ("POST", "/snapshots", "GET, HEAD"),
        ("POST", "/templates/tags", "DELETE, GET, HEAD"),
        ("DELETE", "/api-keys", "GET, HEAD, POST"),
        ("POST", "/v3/templates", ""),
        ("GET", "/volumes", ""),
        ("GET", "/browser/i1", ""),
        ("GET", "", ""),
    ],
)
def test_a_method_without_a_handler_is_405_and_a_path_without_any_is_404(method: str, path: str, allowed: str) -> None:
    assert handler_of(method, path) is None
    assert ", ".join(allowed_methods(path)) == allowed


def test_a_request_for_a_traffic_token_is_a_create_over_the_native_protocol() -> None:
    path = "/sandboxes/i1/traffic-access-token"
    assert route_at("POST", path) is not None
    assert handler_of("POST", path, private=False) is CREATE


@pytest.mark.parametrize(
    ("route", "fields", "expected"),
    [
        (CREATE, {"templateID": "t", "timeout": 9, "autoPause": True, "network": {"allowOut": [], "denyOut": []}}, []),
        (CREATE, {"secure": False, "allow_internet_access": True, "autoResume": {"enabled": False}}, []),
        (CREATE, {"network": None, "iam": None, "metadata": {"a.b": "c"}}, []),
        (CREATE, {"network": {}}, []),
        (CREATE, {"network": {"allowPublicTraffic": True, "rules": {}, "egressProxy": None}}, []),
        (CREATE, {"network": {"allowPublicTraffic": False}}, ["network.allowPublicTraffic"]),
        (CREATE, {"network": {"rules": {"a.b": []}, "dnsServers": []}}, ["network.rules", "network.dnsServers"]),
        (CREATE, {"network": "none"}, ["network"]),
        (CREATE, {"allow_internet_access": False}, ["allow_internet_access"]),
        (CREATE, {"autoPauseMemory": False, "autoResume": {"enabled": True}}, ["autoPauseMemory", "autoResume"]),
        (CREATE, {"somethingNew": 0}, ["somethingNew"]),
        (UPDATE_NETWORK, {"allowOut": ["1.1.1.1"], "allow_internet_access": True}, []),
        (UPDATE_NETWORK, {"allow_internet_access": False}, ["allow_internet_access"]),
        (UPDATE_NETWORK, {"egressProxy": {"address": "a:1"}}, ["egressProxy"]),
        (PAUSE, {"memory": True, "requireHealthyGuest": False}, []),
        (PAUSE, {"memory": False, "requireHealthyGuest": True}, ["memory", "requireHealthyGuest"]),
        (CONNECT, {"timeout": 1, "memory": False}, ["memory"]),
        (SNAPSHOT, {"name": "n", "memory": False}, ["name", "memory"]),
    ],
)
def test_fields_that_ask_for_what_the_manager_does_not_do(
    route: Route, fields: dict[str, Any], expected: list[str]
) -> None:
    assert [name for name, _ in unread_fields(route, fields)] == expected


def test_query_keys_that_a_list_does_not_know() -> None:
    assert unread_query(LIST, ["state", "order", "limit", "metadata", "nextToken", "template"]) == ["order", "template"]
