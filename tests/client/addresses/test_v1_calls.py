"""The rules of the bridge, and how it learns what a manager is where the SDK has no v2 routes of its own."""

from __future__ import annotations

import json

import e2b
import pytest

from kruise_agents.client.addresses.v1_calls import is_no_route, misread, v1_body, v1_path
from kruise_agents.errors import UnsupportedByManagerError
from kruise_agents.patch_e2b import patch_e2b
from support.recorder import Answer, Recorder


@pytest.mark.parametrize(
    ("method", "path", "older"),
    [
        ("POST", "/v2/sandboxes", "/sandboxes"),
        ("POST", "/v2/sandboxes/i1/connect", "/sandboxes/i1/connect"),
        ("GET", "/v2/sandboxes", None),
        ("POST", "/v2/sandboxes/", None),
        ("POST", "/v2/sandboxes//connect", None),
        ("POST", "/v2/sandboxes/i1/connect/x", None),
        ("POST", "/sandboxes", None),
        ("POST", "/v2/templates", None),
        ("POST", "", None),
    ],
)
def test_exactly_two_requests_are_bridged(method: str, path: str, older: str | None) -> None:
    assert v1_path(method, path) == older


MISREAD = [
    ("POST", "/sandboxes/i1/fork", "forking a sandbox"),
    ("POST", "/sandboxes/i1/refreshes", "refreshing a sandbox"),
    ("POST", "/sandboxes/i1/network", "POST /sandboxes/i1/network"),
    ("POST", "/sandboxes/i1", "POST /sandboxes/i1"),
    ("POST", "/sandboxes/", "POST /sandboxes/"),
    ("POST", "/sandboxes/i1/pause/x", "POST /sandboxes/i1/pause/x"),
    ("GET", "/sandboxes/metrics", "sandbox metrics"),
    ("GET", "/sandboxes/i1/metrics", "sandbox metrics"),
    ("GET", "/sandboxes/i1/logs", "sandbox logs"),
    ("GET", "/v2/sandboxes/i1/logs", "sandbox logs"),
    ("GET", "/v2/sandboxes/i1", "GET /v2/sandboxes/i1"),
    ("DELETE", "/sandboxes/i1/anything", "DELETE /sandboxes/i1/anything"),
    ("PUT", "/sandboxes/i1", "PUT /sandboxes/i1"),
    ("PATCH", "/sandboxes/i1", "PATCH /sandboxes/i1"),
    ("PUT", "/sandboxes/i1/metadata", "PUT /sandboxes/i1/metadata"),
    ("GET", "/snapshots/s1", "GET /snapshots/s1"),
    ("DELETE", "/templates/tags", "template tags"),
    ("GET", "/templates/t1/tags", "template tags"),
    ("GET", "/templates/aliases/a", "looking up a template by its name"),
    ("GET", "/templates/t1/builds/b1/status", "the state of a template build"),
    ("GET", "/templates/t1/files/h", "uploading files of a template build"),
]


@pytest.mark.parametrize(("method", "path", "name"), MISREAD)
def test_what_lands_in_another_handler_is_named(method: str, path: str, name: str) -> None:
    assert misread(method, path, private=True) == name


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/sandboxes"),
        ("GET", "/sandboxes"),
        ("GET", "/v2/sandboxes"),
        ("GET", "/sandboxes/i1"),
        ("DELETE", "/sandboxes/i1"),
        ("PUT", "/sandboxes/i1/network"),
        ("POST", "/sandboxes/i1/pause"),
        ("POST", "/sandboxes/i1/resume"),
        ("POST", "/sandboxes/i1/connect"),
        ("POST", "/sandboxes/i1/timeout"),
        ("POST", "/sandboxes/i1/snapshots"),
        ("GET", "/snapshots"),
        ("GET", "/templates"),
        ("GET", "/templates/t1"),
        ("DELETE", "/templates/t1"),
        ("POST", "/v3/templates"),
        ("GET", "/volumes"),
        ("GET", "/teams"),
        ("GET", "/api-keys/compatible"),
        ("GET", ""),
    ],
)
def test_what_has_a_handler_or_none_at_all_is_not(method: str, path: str) -> None:
    assert misread(method, path, private=True) is None


def test_traffic_access_tokens_exist_in_the_private_protocol_only() -> None:
    path = "/sandboxes/i1/traffic-access-token"
    assert misread("POST", path, private=True) is None
    assert misread("POST", path, private=False) == "traffic access tokens over the native protocol"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (405, b"Method Not Allowed\n", True),
        (405, b'{"code": 405}', True),
        (404, b"404 page not found\n", True),
        (404, b"", True),
        (404, b"404", True),
        (404, b'{"code": 404, "message": "no template"}', False),
        (400, b"no", False),
        (503, b"no", False),
        (501, b"no", False),
    ],
)
def test_which_answers_say_that_no_handler_ran(status: int, body: bytes, expected: bool) -> None:
    assert is_no_route(status, body) is expected


def test_bodies_keep_what_they_say() -> None:
    body = {"templateID": "t", "timeout": 9, "metadata": {"k": "中"}, "network": {"allowOut": ["a"], "denyOut": []}}
    assert json.loads(v1_body("/sandboxes", json.dumps(body).encode())) == {**body, "secure": True}
    assert json.loads(v1_body("/sandboxes/i1/connect", b'{"memory":true}')) == {"memory": True, "timeout": 300}
    assert json.loads(v1_body("/sandboxes/i1/connect", b"")) == {"timeout": 300}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"memory": False}, "memory: false"),
        ({"autoPauseMemory": False}, "autoPauseMemory: false"),
        ({"iam": {}}, "iam"),
        ({"mcp": {}}, "mcp"),
        ({"network": {"allowOut": [], "rules": {}, "egressProxy": None}}, "network.rules"),
        ({"network": {"allowPublicTraffic": False}}, "network.allowPublicTraffic: false"),
        ({"autoResume": {"enabled": True}}, "autoResume"),
        ({"somethingNew": 1}, "somethingNew"),
    ],
)
def test_a_meaning_that_would_be_dropped_is_refused(fields: dict[str, object], named: str) -> None:
    with pytest.raises(UnsupportedByManagerError, match=rf"ignore {named}, so the call was given up"):
        v1_body("/sandboxes", json.dumps(fields).encode())


def test_values_that_ask_for_what_happens_anyway_are_passed_on() -> None:
    fields = {
        "templateID": "base",
        "autoResume": {"enabled": False},
        "autoPauseMemory": True,
        "iam": None,
        "network": {"allowOut": ["1.1.1.1"], "allowPublicTraffic": True, "rules": None},
    }
    assert json.loads(v1_body("/sandboxes", json.dumps(fields).encode()))["network"]["allowOut"] == ["1.1.1.1"]


METRICS = "GET /sandboxes/sbx/metrics"


def metrics(times: int, first: Answer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ask ``times`` times for metrics, and return the requests. A create without a body is answered with ``first``."""
    monkeypatch.setattr("kruise_agents.client.addresses.v1_bridge._known", {})
    with Recorder(special={"POST /v2/sandboxes": [first], METRICS: [Answer.json(200, [])]}) as server:
        patch_e2b(False)
        for _ in range(times):
            e2b.Sandbox.get_metrics("sbx", domain=server.domain)
        return [str(call).partition("?")[0] for call in server.api_calls]


@pytest.mark.parametrize("status", [400, 422])
def test_a_newer_manager_is_asked_once_what_it_is_on_every_sdk(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SDKs before 2.51.0 never learn this from a create. An answer about the body comes from the route itself."""
    refused = Answer.json(status, {"code": status, "message": "templateID is missing"})
    assert metrics(2, refused, monkeypatch) == ["POST /v2/sandboxes", METRICS, METRICS]


@pytest.mark.parametrize("answer", [Answer.json(401, {"code": 401, "message": "no"}), Answer.text(400, "bad request")])
def test_what_may_come_from_in_front_of_a_manager_teaches_nothing(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert metrics(2, answer, monkeypatch) == ["POST /v2/sandboxes", METRICS] * 2
