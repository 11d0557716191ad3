"""A manager that answers like OpenKruise's: 136 recorded requests, and the SDK on it."""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from e2b.exceptions import SandboxException
from e2b_code_interpreter import AsyncSandbox, Sandbox, SandboxQuery

from kruise_agents.client.warnings import OlderManagerWarning
from kruise_agents.errors import UnsupportedByManagerError
from kruise_agents.manager.api.reading import members
from kruise_agents.manager.api.sandboxes.operations import PauseHeaders
from kruise_agents.manager.api.snapshots import SnapshotHeaders
from kruise_agents.manager.openkruise import OpaqueTokens, create_api
from kruise_agents.manager.state.secret import StateSecret
from kruise_agents.manager.traffic_tokens import TokenRefusedError
from kruise_agents.patch_traffic_token import patch_traffic_access_token
from kruise_agents.protocol.keys import encode_key
from kruise_agents.protocol.openkruise import PAUSE, ROUTES, SNAPSHOT, Route
from support.managers import API_KEY, RunningManager, running_manager, wait_for

RECORDED: dict[str, Any] = tomllib.loads((Path(__file__).parent / "openkruise.toml").read_text(encoding="utf-8"))
REQUESTS: list[dict[str, Any]] = RECORDED["request"]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
PROTECTED = {"security.agents.kruise.io/enable-jwt-auth": "true"}


def test_every_route_of_the_table_has_a_handler() -> None:
    sandboxes: Any = SimpleNamespace(operations=None)
    api: Any = create_api(sandboxes, *[None] * 4)  # type: ignore[arg-type]  # only described
    assert set(api.handlers) == {(route.method, route.path) for route in ROUTES}


@pytest.mark.parametrize(("route", "declaration"), [(PAUSE, PauseHeaders), (SNAPSHOT, SnapshotHeaders)])
def test_the_headers_of_the_table_are_those_that_a_handler_reads(route: Route, declaration: type) -> None:
    assert {member.name for member in members(declaration)} == route.headers


def test_an_unexpected_error_is_json() -> None:
    def fail(key: bytes) -> None:
        raise ZeroDivisionError

    services: Any = [SimpleNamespace(operations=None), None, None, SimpleNamespace(find=fail), None]
    app = create_api(*services)

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": {}}, receive, send)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(with_state, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://manager") as client:
            return await client.get("/templates")

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["message"]) == (500, "Internal Server Error")


@pytest.fixture(scope="module")
def openkruise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    with running_manager(tmp_path_factory.mktemp("openkruise"), "--like", "openkruise") as running:
        yield running


@pytest.fixture
def api(openkruise: RunningManager) -> Iterator[httpx.Client]:
    with openkruise.api() as client:
        yield client


@pytest.mark.live
@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/robots.txt", "/openapi.json"])
def test_the_pages_of_the_embedded_manager_are_not_there(path: str, openkruise: RunningManager) -> None:
    answer = httpx.get(f"http://{openkruise.domain}{path}")
    assert answer.status_code == 500
    assert answer.text.startswith("API Error: failed to map request to sandbox")


def create(api: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = api.post("/sandboxes", json={"templateID": "base", "timeout": 300, **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def like(seen: Any, wanted: Any) -> bool:
    """Return whether JSON is as recorded, with ``<time>``, ``<text>``, ``<object>`` and ``<any>`` for what varies."""
    if wanted == "<time>":
        return isinstance(seen, str) and TIME.fullmatch(seen) is not None
    if wanted == "<text>":
        return isinstance(seen, str) and bool(seen)
    if wanted == "<any>":
        return True
    if wanted == "<object>":
        return not isinstance(seen, str)
    if isinstance(wanted, dict) and isinstance(seen, dict):
        return wanted.keys() == seen.keys() and all(like(seen[key], value) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(seen, list):
        return len(seen) == len(wanted) and all(like(one, other) for one, other in zip(seen, wanted, strict=True))
    return bool(seen == wanted)


class Replay:
    """The recorded requests on one manager."""

    def __init__(self, manager: RunningManager) -> None:
        self._manager = manager
        with manager.api() as api:
            self._ids = [
                create(api, templateID="code-interpreter", metadata=metadata)["sandboxID"]
                for metadata in ({"diff": "1"}, {})
            ]
            api.post(f"/sandboxes/{self._ids[0]}/snapshots", json={}).raise_for_status()

    def mistakes(self) -> Iterator[str]:
        with httpx.Client(timeout=60) as client:
            for row in REQUESTS:
                if "left_out" not in row:
                    yield from self._compare(row, self._send(row, client))

    def _filled(self, text: str) -> str:
        values = {"id": self._ids[0], "id2": self._ids[1], "key": API_KEY, "encoded": encode_key(API_KEY.encode())}
        values["host"] = self._manager.domain
        return re.sub(r"\{(id2?|key|encoded|host)\}", lambda match: values[match[1]], text)

    def _send(self, row: dict[str, Any], client: httpx.Client) -> httpx.Response:
        method, path = row["send"].split(" ")
        headers = {
            "X-API-Key": API_KEY,
            **{name: self._filled(value) for name, value in row.get("headers", {}).items()},
        }
        if "host" in row:
            headers["Host"] = self._filled(row["host"])
        body: dict[str, Any] = {"json": row["json"]} if "json" in row else {"content": row.get("raw")}
        url = f"http://{self._manager.domain}{self._filled(path)}"
        sent = {name: value for name, value in headers.items() if value}
        return client.request(method, url, headers=sent, **body)

    def _compare(self, row: dict[str, Any], answer: httpx.Response) -> Iterator[str]:
        wanted: dict[str, Any] = {"status": row["status"], "type": row["type"]}
        seen: dict[str, Any] = {"status": answer.status_code, "type": answer.headers.get("Content-Type", "")}
        for name in ("allow", "location"):
            wanted[name], seen[name] = row.get(name), answer.headers.get(name)
        if "message" in row:
            body = answer.json()
            wanted["error"] = [row.get("code", row["status"]), self._filled(row["message"])]
            seen["error"] = [body["code"], body["message"]]
        if "text" in row:
            wanted["text"], seen["text"] = self._filled(row["text"]), answer.text
        if seen == wanted and "body" in row:
            wanted["body"], seen["body"] = json.loads(self._filled(RECORDED["bodies"][row["body"]])), answer.json()
        if seen == wanted and "entries" in row:
            entry, entries = json.loads(RECORDED["bodies"][row["entries"]]), answer.json()
            wanted["entries"], seen["entries"] = [entry] * row.get("count", len(entries) or 1), entries
        differing = [name for name, value in wanted.items() if not like(seen[name], value)]
        if not answer.headers.get("X-Request-ID"):
            differing.append("X-Request-ID")
        for name in differing:
            yield f"{row['name']}: {name} is {seen.get(name)!r} in place of {wanted.get(name)!r}"


@pytest.mark.live
def test_null_is_an_empty_string_in_a_map_and_an_empty_body(api: httpx.Client) -> None:
    """OpenKruise's manager makes a sandbox of ``envs={"A": os.environ.get("A")}``."""
    made = create(api, envVars={"A": None}, metadata={"k": None}, network={"allowOut": None})
    assert made["metadata"]["k"] == ""
    wrong = api.post("/sandboxes", json={"templateID": "base", "envVars": {"A": 5}})
    assert wrong.json()["message"] == (
        "json: cannot unmarshal number into Go struct field NewSandboxRequest.envVars.A of type string"
    )
    refused = api.post("/sandboxes", content=b"null")
    assert (refused.status_code, refused.json()["message"]) == (400, "Template or Checkpoint not found")
    assert api.delete(f"/sandboxes/{made['sandboxID']}").status_code == 204


def test_the_recording_is_whole() -> None:
    assert len(REQUESTS) == len({row["name"] for row in REQUESTS}) == 136
    assert sorted(row["name"] for row in REQUESTS if "left_out" in row) == ["api-keys bad team", "bare host health"]


@pytest.mark.live
@pytest.mark.parametrize("option", [("--like", "openkruise"), ("--v1-only",)], ids=" ".join)
def test_the_recorded_requests_are_answered_as_recorded(option: tuple[str, ...], tmp_path: Path) -> None:
    with running_manager(tmp_path, *option, runtime="process") as manager:
        assert list(Replay(manager).mistakes()) == []
        assert "Traceback" not in manager.log.read_text()


@pytest.mark.live
class TestMisreadings:
    """Requests that such a manager takes for others."""

    def test_keys_that_the_list_does_not_know_are_metadata(self, api: httpx.Client) -> None:
        one = create(api, metadata={"order": "desc"})["sandboxID"]
        found = [each["sandboxID"] for each in api.get("/v2/sandboxes", params={"order": "desc"}).json()]
        assert found == [one]
        api.delete(f"/sandboxes/{one}")

    def test_a_filter_that_the_sdk_encodes_three_times_finds_nothing(self, api: httpx.Client) -> None:
        one = create(api, metadata={"k": "a b"})["sandboxID"]
        assert api.get("/v2/sandboxes", params={"metadata": "k=a%20b"}).json()[0]["sandboxID"] == one
        assert api.get("/v2/sandboxes", params={"metadata": "k=a%2520b"}).json() == []
        api.delete(f"/sandboxes/{one}")

    def test_an_unknown_post_below_a_sandbox_creates_one(self, api: httpx.Client) -> None:
        one = create(api)["sandboxID"]
        other = api.post(f"/sandboxes/{one}/fork", json={"templateID": "base"})
        assert (other.status_code, other.json()["sandboxID"] != one) == (201, True)
        for made in (one, other.json()["sandboxID"]):
            api.delete(f"/sandboxes/{made}")

    def test_rules_that_name_neither_list_remove_all_rules(self, api: httpx.Client) -> None:
        one = f"/sandboxes/{create(api, network={'denyOut': ['0.0.0.0/0']})['sandboxID']}"
        assert api.get(one).json()["network"] == {"allowOut": [], "denyOut": ["0.0.0.0/0"]}
        assert api.put(f"{one}/network", json={"allow_internet_access": False}).status_code == 204
        assert "network" not in api.get(one).json()
        api.delete(one)

    def test_host_names_are_allowed_and_shown_also_after_a_restart(self, tmp_path: Path) -> None:
        rules = {"allowOut": ["1.1.1.1/32", "Some.example", "some.example"], "denyOut": ["0.0.0.0/0"]}
        kept = ("--like", "openkruise", "--keep")
        with running_manager(tmp_path, *kept) as first, first.api() as api:
            one = create(api, network=rules)["sandboxID"]
        with running_manager(tmp_path, *kept) as second, second.api() as api:
            shown = api.get(f"/sandboxes/{one}").json()["network"]
            assert shown == {"allowOut": ["1.1.1.1/32", "some.example"], "denyOut": ["0.0.0.0/0"]}
            api.delete(f"/sandboxes/{one}")

    def test_fields_that_it_does_not_know_mean_nothing(self, api: httpx.Client) -> None:
        fields = {"secure": False, "allow_internet_access": False, "mcp": {"a": {}}, "iam": 1, "autoResume": 1}
        made = create(api, network={"allowPublicTraffic": False, "rules": {"x": 1}}, **fields)
        assert made["envdAccessToken"]
        assert "network" not in api.get(f"/sandboxes/{made['sandboxID']}").json()
        api.delete(f"/sandboxes/{made['sandboxID']}")

    def test_pages_are_oldest_first_and_hold_every_sandbox_once(self, api: httpx.Client) -> None:
        made = [create(api, metadata={"page": "yes"})["sandboxID"] for _ in range(3)]
        seen: list[str] = []
        query = {"limit": "2", "page": "yes"}
        while True:
            answer = api.get("/v2/sandboxes", params=query)
            seen += [each["sandboxID"] for each in answer.json()]
            if "x-next-token" not in answer.headers:
                break
            query["nextToken"] = answer.headers["x-next-token"]
        assert sorted(seen) == sorted(made)
        for each in made:
            api.delete(f"/sandboxes/{each}")

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b'{"templateID": "base", "metadata": {"k": "\\ud800"}}', 500),
            (b'{"templateID": "base", "envVars": {"a": "\\u0000"}}', 400),
            (b'{"templateID": "base", "envVars": {"a=b": "1"}}', 400),
            (b'{"templateID": "base", "timeout": NaN}', 500),
            (b'{"templateID": "base", "timeout": ' + b"9" * 5000 + b"}", 500),
            (b'{"templateID": ' + b"[" * 100_000, 500),
            (b"\xff\xfe", 500),
            (b"[]", 500),
        ],
        ids=["half a surrogate pair", "NUL", "=", "NaN", "many digits", "deep", "no UTF-8", "array"],
    )
    def test_hostile_bodies_are_refused(self, body: bytes, status: int, api: httpx.Client) -> None:
        answer = api.post("/sandboxes", content=body)
        assert answer.status_code == status
        assert answer.json()["message"]
        assert api.get("/v2/sandboxes").status_code == 200


@pytest.mark.live
class TestPause:
    def test_files_and_processes_are_lost_and_the_template_comes_back(self, api: httpx.Client, tmp_path: Path) -> None:
        made = create(api, envVars={"KEPT": "yes"})
        one, token = f"/sandboxes/{made['sandboxID']}", {"X-Access-Token": made["envdAccessToken"]}
        files = f"http://{api.base_url.netloc.decode()}/kruise/{made['sandboxID']}/49983/files"
        there = {"path": "/home/user/mine", "username": "user"}
        with httpx.Client(headers=token, timeout=60) as envd:
            assert envd.post(files, params=there, files={"file": b"mine"}).status_code == 200
            assert envd.get(files, params=there).text == "mine"
            assert api.post(f"{one}/pause").status_code == 204
            assert api.post(f"{one}/connect", json={"timeout": 60}).status_code == 201
            assert envd.get(files, params=there).status_code == 404
            variables = envd.get(files.replace("/files", "/envs")).json()
            assert variables["KEPT"] == "yes"
        api.delete(one)


@pytest.mark.live
@pytest.mark.parametrize("path", ["/kruise/api-prod--a/49983/health", "/kruise/apis/3000", "/kruise/apis?x=1"])
def test_an_id_like_the_api_is_taken_for_the_api(path: str, openkruise: RunningManager) -> None:
    answer = httpx.get(f"http://{openkruise.domain}{path}")
    assert (answer.status_code, answer.text) == (404, "404 page not found\n")


@pytest.mark.live
class TestTrafficTokens:
    def test_they_are_uuids_valid_for_a_hundred_years(self, api: httpx.Client, openkruise: RunningManager) -> None:
        made = create(api, metadata=PROTECTED)
        one, port = f"/sandboxes/{made['sandboxID']}", openkruise.sandbox_url(made["sandboxID"], 49983)
        again = api.post(f"{one}/traffic-access-token").json()
        assert again["trafficAccessToken"] != made["trafficAccessToken"]
        for reply in (made, again):
            token = reply["trafficAccessToken"]
            assert str(uuid.UUID(token)) == token
            left = datetime.fromisoformat(reply["trafficAccessTokenExpiration"]) - datetime.now(UTC)
            assert left > timedelta(days=99 * 365)
            assert httpx.get(f"{port}/health", headers={"e2b-traffic-access-token": token}).status_code == 204
        api.delete(one)

    def test_one_opens_its_sandbox_until_its_end(self) -> None:
        now = [1_800_000_000.0]
        tokens = OpaqueTokens(StateSecret(b"s" * 32), validity=100, clock_skew=60, clock=lambda: now[0])
        token = tokens.issue("a", "1")
        assert token.expires_at == datetime.fromtimestamp(now[0] + 100, UTC)
        tokens.check(token.value, "a", "1")
        for value, uid in ((token.value, "2"), (token.value.upper(), "1"), ("{" + token.value + "}", "1"), ("é", "1")):
            with pytest.raises(TokenRefusedError):
                tokens.check(value, "a", uid)
        with pytest.raises(TokenRefusedError):
            OpaqueTokens(StateSecret(b"t" * 32), clock=lambda: now[0]).check(token.value, "a", "1")
        now[0] += 159
        tokens.check(token.value, "a", "1")
        now[0] += 1
        with pytest.raises(TokenRefusedError, match="expired"):
            tokens.check(token.value, "a", "1")

    @pytest.mark.parametrize("token", [None, "x", "11111111-2222-4333-8444-555555555555", "of another"])
    def test_a_wrong_one_opens_nothing(self, token: str | None, api: httpx.Client, openkruise: RunningManager) -> None:
        made, other = (create(api, metadata=PROTECTED) for _ in range(2))
        token = other["trafficAccessToken"] if token == "of another" else token
        headers = {} if token is None else {"e2b-traffic-access-token": token}
        port = openkruise.sandbox_url(made["sandboxID"], 49983)
        assert httpx.get(f"{port}/health", headers=headers).status_code == 403
        for each in (made, other):
            api.delete(f"/sandboxes/{each['sandboxID']}")


@pytest.mark.live
class TestSnapshots:
    def test_they_have_no_names_and_start_sandboxes(self, api: httpx.Client) -> None:
        source = create(api)["sandboxID"]
        taken = api.post(f"/sandboxes/{source}/snapshots", json={"name": "mine"})
        assert (taken.status_code, taken.json()["names"]) == (201, None)
        snapshot = taken.json()["snapshotID"]
        assert {"snapshotID": snapshot, "names": None} in api.get("/snapshots").json()
        assert api.get("/snapshots", params={"limit": "0"}).status_code == 400
        clone = create(api, templateID=snapshot)
        assert clone["templateID"] == snapshot
        assert api.delete(f"/templates/{snapshot}").status_code == 204
        assert api.get("/snapshots").json() == []
        for each in (source, clone["sandboxID"]):
            api.delete(f"/sandboxes/{each}")


@pytest.mark.live
@pytest.mark.usefixtures("patched")
class TestNewestSdk:
    """The newest SDK calls v2 routes, for which the patch sends others to such a manager."""

    @pytest.fixture
    def options(self, openkruise: RunningManager) -> dict[str, Any]:
        return {"domain": openkruise.domain, "api_key": openkruise.api_key}

    def test_it_runs_over_the_bridge(self, options: dict[str, Any]) -> None:
        with Sandbox.create(**options) as sandbox:
            assert sandbox.run_code("6 * 7").text == "42"
            again = Sandbox.connect(sandbox.sandbox_id, **options)
            assert again.commands.run("echo here").stdout == "here\n"
            with pytest.raises(UnsupportedByManagerError, match="sandbox metrics"):
                sandbox.get_metrics()
            with pytest.raises(UnsupportedByManagerError, match="forking"):
                sandbox.fork()
            assert sandbox.is_running()

    def test_the_async_one_does_too(self, options: dict[str, Any]) -> None:
        async def walk() -> str:
            sandbox = await AsyncSandbox.create(**options)
            again = await AsyncSandbox.connect(sandbox.sandbox_id, **options)
            result = await again.commands.run("echo here")
            await sandbox.kill()
            return result.stdout

        assert asyncio.run(walk()) == "here\n"

    def test_a_pause_ends_the_kernel_and_takes_the_files(self, options: dict[str, Any]) -> None:
        with Sandbox.create(**options) as sandbox:
            sandbox.run_code("x = 1")
            sandbox.files.write("mine", "1")
            with pytest.warns(OlderManagerWarning, match="a pause ends the pod"):
                sandbox.pause()
            sandbox = Sandbox.connect(sandbox.sandbox_id, **options)
            error = sandbox.run_code("x").error
            assert error is not None
            assert error.name == "NameError"
            assert not sandbox.files.exists("mine")

    def test_it_uses_an_opaque_token_after_a_create_and_a_connect(self, options: dict[str, Any]) -> None:
        with patch_traffic_access_token(), Sandbox.create(metadata=PROTECTED, **options) as sandbox:
            assert sandbox.run_code("6 * 7").text == "42"
            assert sandbox.commands.run("echo here").stdout == "here\n"
            again = Sandbox.connect(sandbox.sandbox_id, **options)
            assert again.commands.run("echo here").stdout == "here\n"

    def test_filters_and_orders_find_what_is_there(self, options: dict[str, Any]) -> None:
        query = SandboxQuery(metadata={"k": "x y/z:1&é=%20+"})
        with Sandbox.create(metadata=query.metadata, **options) as sandbox:
            for order in ("asc", "desc"):
                pages = Sandbox.list(query=query, order=order, **options)
                found: list[str] = []
                while pages.has_next:
                    found += [each.sandbox_id for each in pages.next_items()]
                assert found == [sandbox.sandbox_id]

    def test_rules_that_close_the_internet_are_translated(self, options: dict[str, Any]) -> None:
        with Sandbox.create(**options) as sandbox:
            sandbox.update_network({"allow_internet_access": False})
            network = sandbox.get_info().network
            assert network is not None
            assert network["deny_out"] == ["0.0.0.0/0"]

    def test_what_its_envd_is_too_old_for_is_refused(self, options: dict[str, Any]) -> None:
        with Sandbox.create(**options) as sandbox, pytest.raises(SandboxException):
            sandbox.files.write("file", "text", metadata={"k": "v"})

    def test_a_manager_with_the_routes_is_not_bridged(self, manager: RunningManager) -> None:
        earlier = len(manager.log.read_text())
        with Sandbox.create(domain=manager.domain, api_key=manager.api_key) as sandbox:
            log = manager.log.read_text()[earlier:]
            assert len(sandbox.get_metrics()) == 1
        assert "POST /sandboxes " not in log


@pytest.mark.live
def test_a_paused_sandbox_starts_from_its_template_after_a_restart_too(tmp_path: Path) -> None:
    options = ("--like", "openkruise", "--keep")
    with running_manager(tmp_path, *options) as manager, manager.api() as api:
        assert "answering as OpenKruise's manager does" in manager.output
        one = f"/sandboxes/{create(api)['sandboxID']}"
        assert api.post(f"{one}/pause").status_code == 204
    with running_manager(tmp_path, *options) as manager, manager.api() as api:
        assert api.get(one).json()["state"] == "paused"
        assert api.post(f"{one}/connect", json={"timeout": 60}).status_code == 201
        assert httpx.get(f"{manager.sandbox_url(one.removeprefix('/sandboxes/'), 49983)}/health").status_code == 204
        assert api.delete(one).status_code == 204


@pytest.mark.live
def test_a_pause_at_the_end_time_loses_files_too_and_a_template_brings_its_own(tmp_path: Path) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "mine.toml").write_text('[files]\n"~/given" = "given"\n')
    (templates / "given").write_text("from the template")
    with (
        running_manager(tmp_path, "--like", "openkruise", "--templates", str(templates)) as manager,
        manager.api() as api,
    ):
        made = create(api, templateID="mine", timeout=30, autoPause=True)
        one, token = f"/sandboxes/{made['sandboxID']}", {"X-Access-Token": made["envdAccessToken"]}
        files = f"{manager.sandbox_url(made['sandboxID'], 49983)}/files"
        with httpx.Client(headers=token, params={"username": "user"}, timeout=60) as envd:
            assert envd.post(files, params={"path": "own"}, files={"file": b"1"}).status_code == 200
            assert api.post(f"{one}/timeout", json={"timeout": 1}).status_code == 204
            wait_for(lambda: api.get(one).json()["state"] == "paused")
            # While the pause is under way, a connect is refused.
            wait_for(lambda: api.post(f"{one}/connect", json={"timeout": 60}).status_code == 201)
            assert envd.get(files, params={"path": "own"}).status_code == 404
            assert envd.get(files, params={"path": "given"}).text == "from the template"
