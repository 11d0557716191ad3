"""API keys: who owns what, who may make and delete keys, and how much each may have."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.protocol.keys import decode_key, encode_key
from support.managers import RunningManager, running_manager

pytestmark = pytest.mark.live
ADMIN_ID = "550e8400-e29b-41d4-a716-446655440000"
ADMIN_TEAM_ID = "550e8400-e29b-41d4-a716-446655449999"
MakeKey = Callable[..., dict[str, Any]]
OpenClient = Callable[[RunningManager, str], httpx.Client]


@pytest.fixture
def make_key(api: httpx.Client) -> Iterator[MakeKey]:
    """Makes keys as the admin, and deletes them after the test with all that they own."""
    made: list[str] = []

    def make(**body: Any) -> dict[str, Any]:
        answer = api.post("/api-keys", json={"name": "a key", **body})
        assert answer.status_code == 201, answer.text
        made.append(answer.json()["id"])
        return answer.json()

    yield make
    for key_id in made:
        api.delete(f"/api-keys/{key_id}")


@pytest.fixture
def open_client() -> Iterator[OpenClient]:
    """Makes clients of a manager with a key, and closes them after the test."""
    with contextlib.ExitStack() as clients:
        yield lambda manager, key: clients.enter_context(
            httpx.Client(base_url=manager.api_url, headers={"X-API-Key": key}, timeout=60)
        )


@pytest.fixture
def client_of(manager: RunningManager, open_client: OpenClient) -> Callable[[str], httpx.Client]:
    return lambda key: open_client(manager, key)


@pytest.fixture
def other(make_key: MakeKey, client_of: Callable[[str], httpx.Client]) -> Iterator[httpx.Client]:
    """A client with a key of another team. The client's sandboxes are ended after the test."""
    client = client_of(make_key(teamName="red")["key"])
    yield client
    for sandbox in client.get("/v2/sandboxes").json():
        client.delete(f"/sandboxes/{sandbox['sandboxID']}")


def create(client: httpx.Client, **body: Any) -> str:
    answer = client.post("/v2/sandboxes", json={"templateID": "base", **body})
    assert answer.status_code == 201, answer.text
    sandbox_id: str = answer.json()["sandboxID"]
    return sandbox_id


DOORS = [
    ("GET", "/sandboxes/{}"),
    ("DELETE", "/sandboxes/{}"),
    ("PUT", "/sandboxes/{}/network"),
    ("GET", "/sandboxes/{}/metrics"),
    ("GET", "/sandboxes/{}/logs"),
    ("GET", "/v2/sandboxes/{}/logs"),
    ("POST", "/sandboxes/{}/connect"),
    ("POST", "/v2/sandboxes/{}/connect"),
    ("POST", "/sandboxes/{}/pause"),
    ("POST", "/sandboxes/{}/resume"),
    ("POST", "/sandboxes/{}/timeout"),
    ("POST", "/sandboxes/{}/refreshes"),
    ("POST", "/sandboxes/{}/snapshots"),
    ("POST", "/sandboxes/{}/fork"),
    ("POST", "/sandboxes/{}/traffic-access-token"),
]


def test_a_sandbox_of_another_key_looks_like_one_that_does_not_exist(api: httpx.Client, other: httpx.Client) -> None:
    sandbox_id = create(other)
    for method, path in DOORS:
        options: Any = {"headers": {"X-Request-Id": "the-same"}}
        options |= {"json": {"timeout": 60}} if method in ("POST", "PUT") else {}
        foreign = api.request(method, path.format(sandbox_id), **options)
        unknown = api.request(method, path.format("i0"), **options)
        assert foreign.status_code == 404, path
        assert foreign.text.replace(sandbox_id, "i0") == unknown.text, path
        assert set(foreign.headers) == set(unknown.headers)
    assert api.get("/sandboxes/metrics", params={"sandbox_ids": sandbox_id}).json() == {"sandboxes": {}}
    assert other.get(f"/sandboxes/{sandbox_id}").json()["state"] == "running"


def test_lists_show_what_the_key_owns(api: httpx.Client, other: httpx.Client) -> None:
    sandbox_id = create(other)
    shown = other.get("/v2/sandboxes")
    assert [one["sandboxID"] for one in shown.json()] == [sandbox_id]
    assert shown.headers["X-Total-Running"] == "1"
    assert sandbox_id not in api.get("/v2/sandboxes").text


def test_two_keys_of_one_team_do_not_share_sandboxes(
    make_key: MakeKey, client_of: Callable[[str], httpx.Client], other: httpx.Client
) -> None:
    sandbox_id = create(other)
    colleague = client_of(make_key(teamName="red")["key"])
    assert colleague.get(f"/sandboxes/{sandbox_id}").status_code == 404


def test_a_snapshot_belongs_to_its_key(api: httpx.Client, other: httpx.Client) -> None:
    sandbox_id = create(other)
    snapshot = other.post(f"/sandboxes/{sandbox_id}/snapshots", json={"name": "mine"}).json()["snapshotID"]
    assert snapshot not in api.get("/snapshots").text
    assert api.post("/v2/sandboxes", json={"templateID": snapshot}).status_code == 404
    assert api.delete(f"/templates/{snapshot}").status_code == 404
    create(other, templateID=snapshot)


def test_a_made_key_works_in_the_sdk_in_both_spellings(
    manager: RunningManager, make_key: MakeKey, patched: None
) -> None:
    encoded = make_key()["key"]
    raw = (decode_key(encoded) or b"").decode()
    assert str(uuid.UUID(raw)) == raw
    with Sandbox.create(domain=manager.domain, api_key=encoded) as sandbox:
        assert Sandbox.connect(sandbox.sandbox_id, domain=manager.domain, api_key=raw).is_running()
        assert sandbox.run_code("6 * 7").text == "42"


def test_a_made_key_is_nowhere_in_the_state_folder_or_the_log(manager: RunningManager, make_key: MakeKey) -> None:
    encoded = make_key()["key"]
    raw = decode_key(encoded) or b""
    for file in [manager.log, *(path for path in manager.state_dir.iterdir() if path.is_file())]:
        content = file.read_bytes()
        assert raw not in content, file
        assert encoded.encode() not in content, file


def test_what_is_told_of_a_key(api: httpx.Client, make_key: MakeKey, client_of: Callable[[str], httpx.Client]) -> None:
    quota = {"limits": [{"dimension": "sandbox.count", "scope": "all", "limit": 3}]}
    made = make_key(name="build", teamName="blue", quota=quota)
    assert made["team"]["name"] == "blue"
    uuid.UUID(made["team"]["id"])
    assert made["createdBy"] == {"email": "", "id": ADMIN_ID}
    assert made["lastUsed"] is None
    assert made["mask"] == {"maskedValuePrefix": "", "maskedValueSuffix": "", "prefix": "", "valueLength": 0}
    client = client_of(made["key"])
    (shown,) = client.get("/api-keys").json()
    assert shown.pop("lastUsed") > made["createdAt"]
    assert shown == {name: made[name] for name in ("id", "name", "mask", "createdAt", "createdBy") if name in made} | {
        "quota": quota
    }
    assert api.get("/api-keys", params={"teamName": "blue"}).json()[0]["id"] == made["id"]
    assert client.get("/api-keys/compatible").json() == {"key": made["key"]}


def test_the_admin_sees_every_team_and_others_their_own(api: httpx.Client, other: httpx.Client) -> None:
    teams = {team["name"]: team for team in api.get("/teams").json()}
    assert teams["admin"] == {"teamID": ADMIN_TEAM_ID, "name": "admin", "apiKey": "", "isDefault": True}
    assert teams["red"]["isDefault"] is False
    assert [(team["name"], team["isDefault"]) for team in other.get("/teams").json()] == [("red", True)]


def test_the_callers_own_key_in_either_spelling(
    api: httpx.Client, manager: RunningManager, client_of: Callable[[str], httpx.Client]
) -> None:
    encoded = encode_key(manager.api_key)
    assert api.get("/api-keys/compatible").json() == {"key": encoded}
    assert client_of(encoded).get("/api-keys/compatible").json() == {"key": encoded}


LIMIT = {"dimension": "sandbox.count", "scope": "all", "limit": 1}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"name": " "}, 400, "api-key name is required"),
        ({}, 400, "api-key name is required"),
        ({"name": "k", "key": "mine"}, 400, 'field "key" is unknown'),
        ({"name": "k", "teamName": "a--b"}, 400, 'must not contain "--"'),
        ({"name": "k", "teamName": "No"}, 400, 'team name "No"'),
        ({"name": "k", "quota": {"limits": [LIMIT | {"dimension": "x"}]}}, 400, 'unsupported quota dimension "x"'),
        ({"name": "k", "quota": {"limits": [LIMIT | {"scope": "x"}]}}, 400, 'unsupported quota scope "x"'),
        ({"name": "k", "quota": {"limits": [LIMIT | {"limit": -1}]}}, 400, "quota limit must be non-negative"),
        (
            {"name": "k", "quota": {"limits": [LIMIT, LIMIT]}},
            400,
            'duplicate quota limit for dimension "sandbox.count"',
        ),
        ({"name": "k", "quota": {"limits": [{}]}}, 400, "field 'quota.limits[0].dimension' is missing"),
        ({"name": "k", "quota": {"limit": [LIMIT]}}, 400, 'field "quota.limit" is unknown; there are limits'),
    ],
)
def test_keys_that_cannot_be_made(api: httpx.Client, body: dict[str, Any], status: int, text: str) -> None:
    answer = api.post("/api-keys", json=body)
    assert answer.status_code == status
    assert text in answer.json()["message"]


def test_what_only_the_admin_may_do(other: httpx.Client, make_key: MakeKey) -> None:
    blue = make_key(teamName="blue")
    refusals = [
        (other.post("/api-keys", json={"name": "k", "quota": {"limits": [LIMIT]}}), "only admin can set"),
        (other.post("/api-keys", json={"name": "k", "teamName": "blue"}), "API key for another team"),
        (other.get("/api-keys", params={"teamName": "blue"}), "keys of another team"),
        (other.delete(f"/api-keys/{blue['id']}"), "not allowed to delete this API key"),
        (other.delete(f"/api-keys/{ADMIN_ID}"), "not allowed to delete this API key"),
    ]
    for answer, text in refusals:
        assert answer.status_code == 403, answer.text
        assert text in answer.json()["message"]


def test_a_team_manages_its_own_keys(other: httpx.Client, client_of: Callable[[str], httpx.Client]) -> None:
    made = other.post("/api-keys", json={"name": "second"}).json()
    assert made["team"]["name"] == "red"
    second = client_of(made["key"])
    assert len(second.get("/api-keys").json()) == 2
    assert other.delete(f"/api-keys/{made['id']}").status_code == 204
    assert second.get("/teams").status_code == 401


def test_the_admin_key_stays(api: httpx.Client) -> None:
    answer = api.delete(f"/api-keys/{ADMIN_ID}")
    assert (answer.status_code, answer.json()["message"]) == (
        403,
        "the well-known admin api-key cannot be deleted",
    )
    assert api.delete(f"/api-keys/{uuid.uuid4()}").status_code == 404


def test_what_a_deleted_key_owned_belongs_to_the_admin(
    api: httpx.Client, make_key: MakeKey, client_of: Callable[[str], httpx.Client]
) -> None:
    made = make_key(teamName="gone")
    client = client_of(made["key"])
    sandbox_id = create(client)
    client.post(f"/sandboxes/{sandbox_id}/snapshots", json={"name": "kept"})
    mine = create(api)
    api.post(f"/sandboxes/{mine}/snapshots", json={"name": "kept"})
    assert api.delete(f"/api-keys/{made['id']}").status_code == 204
    assert client.get(f"/sandboxes/{sandbox_id}").status_code == 401
    assert api.get(f"/sandboxes/{sandbox_id}").status_code == 200
    # The name stays with the admin's own snapshot.
    shown = api.get("/snapshots", params={"sandboxID": sandbox_id}).json()
    assert [one["names"] for one in shown] == [[]]
    for one in (*shown, {"snapshotID": "kept"}):
        assert api.delete(f"/templates/{one['snapshotID']}").status_code == 204
    for one in (sandbox_id, mine):
        assert api.delete(f"/sandboxes/{one}").status_code == 204


def limited(make_key: MakeKey, client_of: Callable[[str], httpx.Client], **limit: Any) -> httpx.Client:
    entry = {"dimension": "sandbox.count", "scope": "all", "limit": 1} | limit
    return client_of(make_key(teamName="small", quota={"limits": [entry]})["key"])


def test_a_quota_holds_however_many_creates_come_at_once(
    make_key: MakeKey, client_of: Callable[[str], httpx.Client]
) -> None:
    client = limited(make_key, client_of, limit=2)
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: client.post("/v2/sandboxes", json={"templateID": "base"}), range(6)))
    made = [answer.json()["sandboxID"] for answer in answers if answer.status_code == 201]
    refused = [answer for answer in answers if answer.status_code == 403]
    assert (len(made), len(refused)) == (2, 4)
    assert refused[0].json()["message"].startswith("QuotaExceeded: api-key quota exceeded")
    (entry,) = client.post(f"/sandboxes/{made[0]}/fork", json={}).json()
    assert entry["error"]["code"] == 403
    client.delete(f"/sandboxes/{made[0]}")
    made[0] = create(client)
    for sandbox_id in made:
        client.delete(f"/sandboxes/{sandbox_id}")


def test_a_pause_frees_a_quota_of_running_sandboxes_only(
    make_key: MakeKey, client_of: Callable[[str], httpx.Client]
) -> None:
    running, everything = limited(make_key, client_of, scope="running"), limited(make_key, client_of)
    for client in (running, everything):
        first = create(client)
        client.post(f"/sandboxes/{first}/pause")
    second = create(running)
    assert everything.post("/v2/sandboxes", json={"templateID": "base"}).status_code == 403
    # A resume is never refused.
    first = next(one["sandboxID"] for one in running.get("/v2/sandboxes").json() if one["sandboxID"] != second)
    assert running.post(f"/v2/sandboxes/{first}/connect", json={}).status_code == 201
    for client in (running, everything):
        for one in client.get("/v2/sandboxes").json():
            client.delete(f"/sandboxes/{one['sandboxID']}")


@pytest.mark.parametrize("dimension", ["limits.cpu", "limits.memory"])
def test_a_quota_counts_processors_and_memory(
    dimension: str, make_key: MakeKey, client_of: Callable[[str], httpx.Client]
) -> None:
    client = limited(make_key, client_of, dimension=dimension, limit=100)
    answer = client.post("/v2/sandboxes", json={"templateID": "base"})
    assert answer.status_code == 403
    assert f"{dimension} (all) is limited to 100" in answer.json()["message"]


def test_a_limited_key_cannot_make_itself_others(make_key: MakeKey, client_of: Callable[[str], httpx.Client]) -> None:
    answer = limited(make_key, client_of).post("/api-keys", json={"name": "free"})
    assert answer.status_code == 403


def test_keys_and_what_they_own_survive_a_restart_and_a_new_admin_key(tmp_path: Path, open_client: OpenClient) -> None:
    with running_manager(tmp_path, "--keep", "--api-key", "one", "--api-key", "two") as manager:
        admin, second = open_client(manager, "one"), open_client(manager, "two")
        made = admin.post("/api-keys", json={"name": "k", "teamName": "red"}).json()
        red = open_client(manager, made["key"])
        owned = [create(client) for client in (admin, second, red)]
        assert admin.get(f"/sandboxes/{owned[1]}").status_code == 404
        assert [key["name"] for key in admin.get("/api-keys").json()] == ["admin", "admin 2"]
        (second_id,) = [key["id"] for key in admin.get("/api-keys").json() if key["name"] == "admin 2"]
        assert admin.delete(f"/api-keys/{second_id}").status_code == 403
    with running_manager(tmp_path, "--api-key", "new") as manager:
        admin, former, red = (open_client(manager, key) for key in ("new", "one", made["key"]))
        assert former.get("/teams").status_code == 401
        # What belonged to the second key, which is not given any more, has gone to the first.
        shown = {one["sandboxID"] for one in admin.get("/v2/sandboxes").json()}
        assert shown == set(owned[:2])
        assert [one["sandboxID"] for one in red.get("/v2/sandboxes").json()] == owned[2:]
