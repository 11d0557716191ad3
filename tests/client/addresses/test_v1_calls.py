"""The rules of the bridge, and how it learns what a manager is where the SDK has no v2 routes of its own."""

from __future__ import annotations

import json
from typing import Any

import e2b
import httpx
import pytest

from kruise_agents.client.addresses.v1_calls import Loss, OlderCall, is_no_route, misread, older_call, v1_path
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


CREATE_V2, CREATE_V1 = "POST /v2/sandboxes", "POST /sandboxes"
CONNECT_V2 = "POST /v2/sandboxes/i1/connect"
NETWORK, PAUSE, SNAPSHOT = (
    f"{call} /sandboxes/i1/{name}" for call, name in (("PUT", "network"), ("POST", "pause"), ("POST", "snapshots"))
)
CONTENTS = "x-e2b-kruise-snapshot-persistent-contents"


def put(call: str, fields: object = None, headers: dict[str, str] | None = None) -> OlderCall:
    """Return what an older manager needs instead of ``call``."""
    method, target = call.split(" ")
    path, _, query = target.partition("?")
    body = b"" if fields is None else json.dumps(fields).encode()
    return older_call(method, path, query, httpx.Headers(headers), body, private=True)


def body_of(call: OlderCall) -> Any:
    assert call.body is not None
    return json.loads(call.body)


def test_bodies_keep_what_they_say() -> None:
    body = {"templateID": "t", "timeout": 9, "metadata": {"k": "中"}, "network": {"allowOut": ["a"], "denyOut": []}}
    assert body_of(put(CREATE_V2, body)) == {**body, "secure": True}
    assert body_of(put(CONNECT_V2, {"memory": True})) == {"memory": True, "timeout": 300}
    assert body_of(put(CONNECT_V2)) == {"timeout": 300}


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        (
            CREATE_V1,
            {"templateID": "t", "timeout": 9, "secure": False, "autoPause": False, "allow_internet_access": True},
        ),
        (CREATE_V1, {"network": {"allowOut": ["1.1.1.1"], "allowPublicTraffic": True, "rules": None}}),
        (CREATE_V1, {"autoResume": {"enabled": False}, "iam": None}),
        (NETWORK, {}),
        (NETWORK, {"allowOut": ["a.b"], "denyOut": ["0.0.0.0/0"], "rules": {}, "allow_internet_access": True}),
        ("POST /sandboxes/i1/timeout", {"timeout": 1}),
        ("POST /sandboxes/i1/connect", {"timeout": 1}),
        (SNAPSHOT, {}),
        ("GET /v2/sandboxes?state=running%2Cpaused&limit=3&nextToken=abc&metadata=a.b%252Fc%3Dx-y_z~%252F", None),
        ("GET /snapshots?sandboxID=i1&limit=3", None),
        ("GET /sandboxes/i1", None),
        ("POST /sandboxes/i1/traffic-access-token", None),
    ],
)
def test_what_an_older_manager_reads_rightly_is_sent_as_it_is(call: str, fields: object) -> None:
    sent = put(call, fields)
    assert (sent.is_changed, list(sent.losses)) == (False, [])


@pytest.mark.parametrize("call", [CREATE_V1, CREATE_V2])
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"autoPauseMemory": False}, "autoPauseMemory: false"),
        ({"iam": {}}, "iam"),
        ({"mcp": {}}, "mcp"),
        ({"network": {"allowOut": [], "rules": {"a.b": []}, "egressProxy": None}}, "network.rules"),
        ({"network": {"allowPublicTraffic": False}}, "network.allowPublicTraffic: false"),
        ({"network": {"maskRequestHost": "a.b"}}, "network.maskRequestHost"),
        ({"network": {"dnsServers": []}}, "network.dnsServers"),
        ({"autoResume": {"enabled": True}}, "autoResume"),
        ({"somethingNew": 1}, "somethingNew"),
    ],
)
def test_a_meaning_that_would_be_dropped_is_named(call: str, fields: dict[str, object], named: str) -> None:
    assert put(call, fields).ignored == [named]


@pytest.mark.parametrize(
    ("call", "fields", "named"),
    [
        (NETWORK, {"egressProxy": {"address": "a:1"}, "dnsServers": ["1.1.1.1"]}, ["egressProxy", "dnsServers"]),
        (NETWORK, {"rules": {"a.b": [{}]}}, ["rules"]),
        (PAUSE, {"memory": False}, ["memory: false"]),
        (PAUSE, {"requireHealthyGuest": True}, ["requireHealthyGuest"]),
        (CONNECT_V2, {"memory": False}, ["memory: false"]),
        ("POST /sandboxes/i1/connect", {"timeout": 1, "memory": False}, ["memory: false"]),
        ("GET /snapshots?name=n", None, ["name"]),
        ("GET /v2/sandboxes?order=newest&colour=red", None, ["colour", "order"]),
        ("GET /v2/sandboxes?startedAfter=yesterday", None, ["startedAfter"]),
        ("GET /v2/sandboxes?order=desc&nextToken=abc", None, ["nextToken of a list in another order"]),
        ("GET /v2/sandboxes?nextToken=newest-first.abc", None, ["nextToken of a list in another order"]),
        *(
            (
                f"GET /v2/sandboxes?order=desc&nextToken=newest-first.{token}",
                None,
                ["nextToken of a list in another order"],
            )
            for token in ("abc", "AAAA", "MQ==", "WzEsIDJd", "WyIyMDI2LTA4LTIyVDA4OjAwOjAwIiwgImkiXQ==")
        ),
    ],
)
def test_other_requests_whose_meaning_would_be_dropped(call: str, fields: object, named: list[str]) -> None:
    assert put(call, fields).ignored == named


@pytest.mark.parametrize(
    ("denied", "sent"),
    [
        (None, ["0.0.0.0/0"]),
        ([], ["0.0.0.0/0"]),
        (["1.1.1.1"], ["1.1.1.1", "0.0.0.0/0"]),
        (["0.0.0.0/0", "::/0"], ["0.0.0.0/0", "::/0"]),
    ],
)
def test_a_closed_internet_is_a_denied_network(denied: list[str] | None, sent: list[str]) -> None:
    """E2B's SDK says so: "it behaves the same as specifying deny_out=["0.0.0.0/0"] in the network config"."""
    network: dict[str, object] = {"allowOut": ["a.b"]} if denied is None else {"denyOut": denied, "allowOut": ["a.b"]}
    closed = {"allow_internet_access": False}
    for call in (CREATE_V1, CREATE_V2):
        created = put(call, {**closed, "network": network})
        assert created.ignored == []
        changed = body_of(created) if created.body else {**closed, "network": network}
        assert changed["network"] == {"allowOut": ["a.b"], "denyOut": sent}
        assert changed["allow_internet_access"] is False
    updated = put(NETWORK, {**closed, **network})
    assert updated.ignored == []
    assert (body_of(updated) if updated.body else {**closed, **network}) == {
        **closed,
        "allowOut": ["a.b"],
        "denyOut": sent,
    }


def test_a_closed_internet_without_rules_is_a_denied_network_too() -> None:
    assert body_of(put(CREATE_V1, {"allow_internet_access": False}))["network"] == {"denyOut": ["0.0.0.0/0"]}
    assert body_of(put(NETWORK, {"allow_internet_access": False}))["denyOut"] == ["0.0.0.0/0"]


@pytest.mark.parametrize(("memory", "contents"), [(False, "filesystem"), (True, "filesystem,memory")])
def test_the_mode_of_a_snapshot_is_a_header_there(memory: bool, contents: str) -> None:
    call = put(SNAPSHOT, {"memory": memory})
    assert (call.headers, call.ignored) == ({CONTENTS: contents}, [])
    assert put(SNAPSHOT, {"memory": memory}, {CONTENTS: contents}).is_changed is False
    assert put(SNAPSHOT, {"memory": memory}, {CONTENTS: "memory"}).ignored == ["memory" if memory else "memory: false"]


@pytest.mark.parametrize(
    ("call", "fields", "headers", "losses"),
    [
        (PAUSE, None, {}, [Loss.PAUSE]),
        (PAUSE, {"memory": True}, {}, [Loss.PAUSE]),
        (CREATE_V1, {"autoPause": True, "autoPauseMemory": True}, {}, [Loss.PAUSE]),
        (CREATE_V2, {"autoPause": True}, {}, [Loss.PAUSE]),
        (CREATE_V2, {}, {"idempotency-key": "mine"}, [Loss.KEY]),
        (SNAPSHOT, {"name": "n"}, {}, [Loss.NAME]),
    ],
)
def test_what_an_older_manager_does_in_another_way_is_told(
    call: str, fields: object, headers: dict[str, str], losses: list[Loss]
) -> None:
    told = put(call, fields, headers)
    assert (told.losses, told.ignored) == (losses, [])


@pytest.mark.parametrize(
    ("metadata", "sent", "left"),
    [
        ("user%3Da%252540b.c", "user=a%40b.c", {}),
        ("k%3Da%252520b", "k=a+b", {}),
        ("k%3Da%252520b%26j%3Dc", "k=a+b&j=c", {}),
        ("k%3Da%252526b%26j%3Dc", "j=c", {"k": "a&b"}),
    ],
)
def test_filters_lose_the_encoding_that_the_manager_leaves_in(metadata: str, sent: str, left: dict[str, str]) -> None:
    """The SDK sends three encodings. OpenKruise's manager removes two, so it would look for ``a%20b``."""
    call = put(f"GET /v2/sandboxes?limit=2&metadata={metadata}")
    assert call.query is not None
    assert call.query["limit"] == "2"
    assert call.query.get("metadata", "") == sent
    assert (call.selection.metadata if call.selection else {}) == left
    assert call.ignored == []


def test_a_template_is_looked_up_by_its_id_which_is_its_name_there() -> None:
    call = put("GET /templates/aliases/a%2Fb")
    assert (call.path, call.feature) == ("/templates/a%2Fb", "looking up a template by its name")
    for path in ("/templates/aliases/", "/templates/aliases/a/b"):
        assert put(f"GET {path}").path is None
        assert put(f"GET {path}").feature is not None


def test_a_list_is_asked_for_without_the_keys_that_it_would_take_for_metadata() -> None:
    call = put(
        "GET /v2/sandboxes?template=T&startedAfter=2026-08-22T08%3A00%3A00%2B00%3A00&order=asc&limit=5&state=paused"
    )
    assert call.query == {"limit": "5", "state": "paused"}
    assert call.selection is not None
    assert (call.selection.template, call.selection.newest_first) == ("T", False)
    oldest_first = put("GET /v2/sandboxes?order=asc")
    assert (oldest_first.query, oldest_first.selection, oldest_first.ignored) == ({}, None, [])


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
