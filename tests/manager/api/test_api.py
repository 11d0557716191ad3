"""The control plane over REST, as every SDK generation calls it."""

from __future__ import annotations

import contextlib
import socket
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from e2b import Sandbox as CoreSandbox
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from support.managers import RunningManager, assert_ends, processes_with, wait_for

Create = Callable[..., dict[str, Any]]


@pytest.fixture
def create(api: httpx.Client) -> Iterator[Create]:
    """Makes sandboxes over REST and ends them after the test."""
    made: list[str] = []

    def create(path: str = "/v2/sandboxes", **body: Any) -> dict[str, Any]:
        answer = api.post(path, json={"templateID": "base", **body})
        assert answer.status_code == 201, answer.text
        made.append(answer.json()["sandboxID"])
        return answer.json()

    yield create
    for sandbox_id in made:
        api.delete(f"/sandboxes/{sandbox_id}")


BODIES = {
    "2.8.0 ... 2.22.0": {
        "allow_internet_access": True,
        "autoPause": False,
        "envVars": {},
        "metadata": {},
        "secure": True,
        "timeout": 300,
    },
    "2.23 ... 2.41": {
        "allow_internet_access": True,
        "autoPause": False,
        "autoResume": {"enabled": False},
        "envVars": {},
        "metadata": {},
        "secure": True,
        "timeout": 300,
    },
    "2.51.0 and later": {"metadata": {}, "envVars": {}},
}


@pytest.mark.parametrize("path", ["/sandboxes", "/v2/sandboxes"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_create_takes_the_body_of_every_sdk_generation(
    path: str, body: dict[str, Any], create: Create, manager: RunningManager
) -> None:
    made = create(path, **body)
    assert made["sandboxID"].startswith("i")
    assert len(made["sandboxID"]) == 21
    assert made["envdVersion"] == "0.6.13"
    assert len(made["envdAccessToken"]) == 64
    assert made["domain"] == manager.domain


def test_the_default_life_is_300_seconds(create: Create, api: httpx.Client) -> None:
    found = api.get(f"/sandboxes/{create()['sandboxID']}").json()
    life = datetime.fromisoformat(found["endAt"]) - datetime.fromisoformat(found["startedAt"])
    assert life == pytest.approx(timedelta(seconds=300), abs=timedelta(seconds=1))


def test_get_has_every_field_that_the_sdk_requires(create: Create, api: httpx.Client) -> None:
    made = create(metadata={"who": "me"}, timeout=60)
    found = api.get(f"/sandboxes/{made['sandboxID']}").json()
    assert found["state"] == "running"
    assert found["metadata"] == {"who": "me"}
    assert found["alias"] == "base"
    assert found["envdAccessToken"] == made["envdAccessToken"]
    assert {"templateID", "clientID", "startedAt", "endAt", "cpuCount", "memoryMB", "diskSizeMB"} <= set(found)


def test_get_shows_what_a_sandbox_may_reach_when_anything_was_said(create: Create, api: httpx.Client) -> None:
    path = f"/sandboxes/{create()['sandboxID']}"
    assert api.get(path).json()["allowInternetAccess"] is True
    assert "network" not in api.get(path).json()
    assert api.put(f"{path}/network", json={"denyOut": ["8.8.8.8", "10.0.0.0/8"]}).status_code == 204
    assert api.get(path).json()["network"] == {
        "allowOut": [],
        "denyOut": ["8.8.8.8/32", "10.0.0.0/8"],
        "allowPublicTraffic": True,
    }
    assert api.put(f"{path}/network", json={"allow_internet_access": False}).status_code == 204
    assert api.get(path).json()["allowInternetAccess"] is False


def test_an_insecure_sandbox_has_no_token(create: Create) -> None:
    assert create("/sandboxes", secure=False)["envdAccessToken"] is None


@pytest.mark.parametrize("path", ["/sandboxes/{}/connect", "/v2/sandboxes/{}/connect"])
def test_connect_prolongs_and_never_shortens(path: str, create: Create, api: httpx.Client) -> None:
    made = create(timeout=1000)
    sandbox_id = made["sandboxID"]
    before = api.get(f"/sandboxes/{sandbox_id}").json()["endAt"]
    answer = api.post(path.format(sandbox_id), json={"timeout": 60})
    assert answer.status_code == 200
    assert answer.json()["envdAccessToken"] == made["envdAccessToken"]
    assert api.get(f"/sandboxes/{sandbox_id}").json()["endAt"] == before
    assert api.post(path.format(sandbox_id), json={"timeout": 5000}).status_code == 200
    assert api.get(f"/sandboxes/{sandbox_id}").json()["endAt"] > before


def test_connect_without_a_body_uses_the_default_life(create: Create, api: httpx.Client) -> None:
    assert api.post(f"/v2/sandboxes/{create()['sandboxID']}/connect", json={}).status_code == 200


def test_set_timeout_may_shorten_and_zero_ends_at_once(create: Create, api: httpx.Client) -> None:
    sandbox_id = create(timeout=1000)["sandboxID"]
    assert api.post(f"/sandboxes/{sandbox_id}/timeout", json={"timeout": 100}).status_code == 204
    end = datetime.fromisoformat(api.get(f"/sandboxes/{sandbox_id}").json()["endAt"])
    assert end < datetime.now(UTC) + timedelta(seconds=101)
    assert api.post(f"/sandboxes/{sandbox_id}/timeout", json={"timeout": 0}).status_code == 204
    assert api.get(f"/sandboxes/{sandbox_id}").status_code == 404


def test_a_sandbox_past_its_end_is_gone_with_its_processes_and_files(
    manager: RunningManager, patched: None, api: httpx.Client
) -> None:
    sandbox = CoreSandbox.create(domain=manager.domain, api_key=manager.api_key, timeout=1000)
    marker = f"99{uuid.uuid4().int % 10**9}"
    sandbox.commands.run(f"sleep {marker} & sleep {marker}", background=True)
    wait_for(lambda: len(processes_with(f"sleep {marker}")) >= 2, what="the processes of the sandbox")
    running = processes_with(marker)
    folder = manager.folder_of(sandbox.sandbox_id)
    assert folder.is_dir()
    sandbox.set_timeout(1)
    assert_ends(running)
    wait_for(lambda: api.get(f"/sandboxes/{sandbox.sandbox_id}").status_code == 404, what="the end of the sandbox")
    wait_for(lambda: not folder.exists(), what="the end of its folder")


def test_kill_ends_everything_before_it_answers(manager: RunningManager, patched: None) -> None:
    sandbox = CoreSandbox.create(domain=manager.domain, api_key=manager.api_key)
    marker = f"98{uuid.uuid4().int % 10**9}"
    sandbox.commands.run(f"setsid nohup sleep {marker} >/dev/null 2>&1 & sleep {marker}", background=True)
    wait_for(lambda: len(processes_with(f"sleep {marker}")) >= 2, what="the processes of the sandbox")
    assert sandbox.kill() is True
    assert processes_with(marker) == []
    assert sandbox.kill() is False


@pytest.mark.needs("namespaces")  # without them pkill would find the programs of other sandboxes too
def test_a_sandbox_whose_program_dies_is_gone(manager: RunningManager, sandbox: Sandbox, api: httpx.Client) -> None:
    with contextlib.suppress(SandboxException):  # the program may die before it has answered
        sandbox.commands.run("pkill -9 -f kruise_agents.sandbox; sleep 5", background=True, user="root")
    wait_for(lambda: api.get(f"/sandboxes/{sandbox.sandbox_id}").status_code == 404, what="the end of the sandbox")


def test_variables_of_the_create_call_reach_commands_and_code(manager: RunningManager, patched: None) -> None:
    with Sandbox.create(domain=manager.domain, api_key=manager.api_key, envs={"A": "sp ace=\"'\n"}) as sandbox:
        assert sandbox.commands.run('printf %s "$A"').stdout == "sp ace=\"'\n"
        assert sandbox.run_code("import os; os.environ['A']").text == repr("sp ace=\"'\n").strip("'")
        assert sandbox.commands.run("echo $E2B_SANDBOX $E2B_SANDBOX_ID").stdout == f"true {sandbox.sandbox_id}\n"


class TestList:
    def test_pages_newest_first_without_loss_or_repetition(self, create: Create, api: httpx.Client) -> None:
        mark = uuid.uuid4().hex
        made = [create(metadata={"mark": mark})["sandboxID"] for _ in range(5)]
        found: list[str] = []
        query: dict[str, str] = {"limit": "2", "metadata": f"mark={mark}"}
        while True:
            answer = api.get("/v2/sandboxes", params=query)
            found += [one["sandboxID"] for one in answer.json()]
            if "x-next-token" not in answer.headers:
                break
            query["nextToken"] = answer.headers["x-next-token"]
        assert found == made[::-1]

    def test_the_sdk_finds_metadata_with_any_characters(self, manager: RunningManager, patched: None) -> None:
        from e2b import SandboxQuery

        metadata = {"k e": "v=1&é/ü", "plain": "x"}
        options: dict[str, Any] = {"domain": manager.domain, "api_key": manager.api_key}
        with CoreSandbox.create(metadata=metadata, **options) as sandbox:
            listed = CoreSandbox.list(query=SandboxQuery(metadata=metadata), **options).next_items()
            assert [one.sandbox_id for one in listed] == [sandbox.sandbox_id]
            other = SandboxQuery(metadata={"k e": "v=2"})
            assert CoreSandbox.list(query=other, **options).next_items() == []

    def test_the_wire_form_of_the_specification_is_understood(self, create: Create, api: httpx.Client) -> None:
        made = create(metadata={"k e": "v=1&"})
        pair = urlencode({quote("k e"): quote("v=1&")})
        answer = httpx.get(f"{api.base_url}v2/sandboxes?metadata={quote(pair)}", headers=api.headers)
        assert [one["sandboxID"] for one in answer.json()] == [made["sandboxID"]]

    def test_the_older_list_has_running_ones_only(self, create: Create, api: httpx.Client) -> None:
        running, paused = create()["sandboxID"], create()["sandboxID"]
        api.post(f"/sandboxes/{paused}/pause")
        shown = {one["sandboxID"] for one in api.get("/sandboxes").json()}
        assert (running in shown, paused in shown) == (True, False)
        assert paused in {one["sandboxID"] for one in api.get("/v2/sandboxes").json()}

    def test_state_template_order_and_start_filter(self, create: Create, api: httpx.Client) -> None:
        mark = uuid.uuid4().hex
        first = create(metadata={"mark": mark})["sandboxID"]
        middle = datetime.now(UTC)
        second = create(metadata={"mark": mark})["sandboxID"]

        def ids(**query: str) -> list[str]:
            found = api.get("/v2/sandboxes", params={"metadata": f"mark={mark}", **query})
            assert found.status_code == 200, found.text
            return [one["sandboxID"] for one in found.json()]

        assert ids(order="asc") == [first, second]
        assert ids(state="running,paused", template="base") == [second, first]
        assert ids(state="paused") == []
        assert ids(template="nothing-here") == []
        assert ids(startedAfter=middle.isoformat()) == [second]

    @pytest.mark.parametrize(
        ("query", "text"),
        [
            ({"limit": "0"}, "'0'"),
            ({"limit": "many"}, "'many'"),
            ({"state": "frozen"}, "'frozen'"),
            ({"order": "up"}, "up"),
            ({"nextToken": "%%%"}, "next token"),
            ({"nextToken": "ÿ"}, "next token"),
            ({"nextToken": "bm90aGluZw"}, "next token"),
            ({"nextToken": "eHh4X195eXk"}, "next token"),
            ({"startedAfter": "yesterday"}, "'yesterday'"),
            ({"template": "base:v1"}, "tags are not supported"),
            ({"metadata": "novalue"}, "'novalue'"),
        ],
    )
    def test_a_bad_parameter_is_named(self, query: dict[str, str], text: str, api: httpx.Client) -> None:
        answer = api.get("/v2/sandboxes", params=query)
        assert answer.status_code == 400
        assert text in answer.json()["message"]


class TestBadInput:
    @pytest.mark.parametrize(
        ("body", "text"),
        [
            ({}, "field 'templateID' is missing"),
            ({"templateID": 7}, "field 'templateID' must be a string, got 7"),
            ({"templateID": "base", "timeout": "long"}, "field 'timeout' must be a whole number, got \"long\""),
            ({"templateID": "base", "timeout": True}, "field 'timeout' must be a whole number, got true"),
            ({"templateID": "base", "timeout": 0}, "Timeout must be greater than 0, got 0"),
            ({"templateID": "base", "timeout": 10**9}, "Timeout cannot be greater than 720 hours"),
            ({"templateID": "base", "metadata": {"k": 1}}, "field 'metadata.k' must be a string, got 1"),
            ({"templateID": "base", "metadata": []}, "field 'metadata' must be an object of strings, got []"),
            ({"templateID": "base", "envVars": {"A=B": "x"}}, "field 'envVars.A=B' cannot be"),
            ({"templateID": "base", "envVars": {"A": "x" * 140_000}}, "programs can be given 131072 at most"),
            (
                {"templateID": "base", "envVars": {f"V{n}": "x" * 100_000 for n in range(11)}},
                "field 'envVars' has 1100045 bytes; it may have 1048576",
            ),
            ({"templateID": "base", "autoResume": {"enabled": 1}}, "field 'autoResume.enabled' must be true or false"),
            ({"templateID": "base", "network": {"allowOut": "x"}}, "field 'network.allowOut' must be an array"),
            ({"templateID": "base", "volumeMounts": [{"name": 1}]}, "field 'volumeMounts[0].name' must be a string"),
            (
                {"templateID": "base", "metadata": {"e2b.agents.kruise.io/create-on-no-stock": "no"}},
                "create-on-no-stock must be 'true' or 'false', got 'no'",
            ),
            ({"templateID": "base", "secure": "yes"}, "field 'secure' must be true or false"),
            ({"templateID": "base", "autoPause": "yes"}, "field 'autoPause' must be true or false"),
            ({"templateID": "base", "autoPauseMemory": False}, "autoPauseMemory=false only applies when autoPause is"),
            (
                {"templateID": "base", "autoPause": True, "autoPauseMemory": False, "autoResume": {"enabled": True}},
                "cannot be combined with autoResume",
            ),
            ({"templateID": "base", "autoResume": {"policy": "some"}}, "must be 'any' or 'off', got 'some'"),
            (
                {"templateID": "base", "metadata": {"e2b.agents.kruise.io/reserve-paused-sandbox-duration": "2 days"}},
                'invalid reserve paused sandbox duration "2 days"',
            ),
            ({"templateID": "base", "volumeMounts": [{"path": "/v"}]}, "volumeMounts[0].name cannot be empty"),
            ({"templateID": "base", "network": {"egressProxy": {"address": "a:1"}}}, "field 'network.egressProxy'"),
            ({"templateID": "base", "mcp": {"x": {}}}, "field 'mcp'"),
            (
                {"templateID": "base", "metadata": {"e2b.agents.kruise.io/image": "other"}},
                "e2b.agents.kruise.io/image is not supported",
            ),
        ],
    )
    def test_the_field_is_named(self, body: dict[str, Any], text: str, api: httpx.Client) -> None:
        answer = api.post("/v2/sandboxes", json=body)
        assert answer.status_code == 400
        assert set(answer.json()) == {"code", "message", "request_id"}
        assert text in answer.json()["message"]

    @pytest.mark.parametrize(
        "data",
        [
            b"{",
            b"[1]",
            b'"x"',
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"templateID":"\\ud800"}',
            b'{"templateID":"\xff"}',
            '{"templateID":"base"}'.encode("utf-16"),
            b'\xef\xbb\xbf{"templateID":"base"}',
        ],
        ids=range(9),
    )
    def test_malformed_json_is_a_400_that_says_so(self, data: bytes, api: httpx.Client) -> None:
        answer = api.post("/sandboxes", content=data)
        assert answer.status_code == 400
        assert answer.json()["message"].startswith("Error when parsing request")

    def test_an_unknown_template_is_a_404_that_names_those_that_exist(self, api: httpx.Client) -> None:
        answer = api.post("/sandboxes", json={"templateID": "nope"})
        assert answer.status_code == 404
        assert answer.json()["message"].startswith("template 'nope' not found; this manager has: base")

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/sandboxes/inobody"),
            ("DELETE", "/sandboxes/inobody"),
            ("POST", "/sandboxes/inobody/connect"),
            ("POST", "/v2/sandboxes/inobody/connect"),
        ],
    )
    def test_an_unknown_sandbox_is_a_404(self, method: str, path: str, api: httpx.Client) -> None:
        answer = api.request(method, path)
        assert answer.status_code == 404
        assert 'Sandbox "inobody" doesn\'t exist' in answer.json()["message"]

    def test_an_unknown_route_and_a_wrong_method_are_json(self, api: httpx.Client) -> None:
        unknown, wrong = api.get("/nothing"), api.put("/sandboxes")
        assert (unknown.status_code, unknown.json()["code"]) == (404, 404)
        assert (wrong.status_code, wrong.json()["code"]) == (405, 405)
        assert wrong.headers["allow"] == "GET, HEAD, POST"
        assert api.patch("/sandboxes/i1").headers["allow"] == "DELETE, GET, HEAD"

    def test_template_tags_are_refused_by_their_name(self, api: httpx.Client) -> None:
        for method in ("POST", "DELETE"):
            message = api.request(method, "/templates/tags").json()["message"]
            assert message == "template tags: not supported by this manager yet"

    @pytest.mark.parametrize(
        ("body", "file"),
        [
            ({"name": "vf-0b8d428bf0aac599a412420e"}, "vf-0b8d428bf0aac599a412420e.toml"),
            ({"name": "Mine:default", "tags": []}, "mine.toml"),
            ({"alias": "mine", "dockerfile": "FROM scratch"}, "mine.toml"),
            ({"name": "mine:v2"}, "<name>.toml"),
            ({"name": "../mine"}, "<name>.toml"),
            ({"name": "a\nb"}, "<name>.toml"),
            ({"name": "a" * 129}, "<name>.toml"),
            ({}, "<name>.toml"),
        ],
    )
    @pytest.mark.parametrize("path", ["/templates", "/v2/templates", "/v3/templates"])
    def test_a_refused_build_names_the_file_that_makes_the_template(
        self, path: str, body: dict[str, object], file: str, api: httpx.Client
    ) -> None:
        answer = api.post(path, json=body)
        assert answer.status_code == 400
        assert answer.json()["message"] == (
            "template builds: not supported by this manager yet; name a template that is there, such as base, or put "
            f"{file} into the folder of the manager's option --templates (the file may be empty) and start the manager "
            "again"
        )

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("PATCH", "/templates/base"),
            ("POST", "/templates/tags"),
            ("GET", "/templates/base/tags/count"),
            ("GET", "/templates/base/tags/v1/assignments"),
            ("GET", "/default-templates"),
            ("GET", "/browser/i1/json/version"),
            ("GET", "/debug"),
            ("GET", "/nodes"),
            ("GET", "/teams/t/metrics"),
            ("POST", "/v3/templates"),
        ],
    )
    def test_what_is_not_there_says_so_when_it_is_called(self, method: str, path: str, api: httpx.Client) -> None:
        answer = api.request(method, path)
        assert answer.status_code == 400
        assert "not supported by this manager yet" in answer.json()["message"]


def test_a_limit_of_thousands_of_digits_counts_as_the_largest(api: httpx.Client) -> None:
    assert api.get("/v2/sandboxes", params={"limit": "9" * 5000}).status_code == 200


def test_a_client_that_leaves_during_create_leaves_no_sandbox(manager: RunningManager, api: httpx.Client) -> None:
    mark = uuid.uuid4().hex

    def listed() -> list[Any]:
        return list(api.get("/v2/sandboxes", params={"metadata": f"mark={mark}"}).json())

    body = f'{{"templateID":"base","metadata":{{"mark":"{mark}"}}}}'
    head = f"POST /kruise/api/v2/sandboxes HTTP/1.1\r\nHost: {manager.domain}\r\nX-API-Key: {manager.api_key}\r\n"
    before = len(list((manager.state_dir / "sandboxes").iterdir()))
    with socket.create_connection(("127.0.0.1", manager.port), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        wait_for(lambda: len(list((manager.state_dir / "sandboxes").iterdir())) > before, what="a sandbox being made")
    wait_for(lambda: len(list((manager.state_dir / "sandboxes").iterdir())) == before, what="the end of it")
    assert listed() == []


class TestAccess:
    def test_a_missing_key_is_a_401_that_says_which_header(self, manager: RunningManager) -> None:
        answer = httpx.post(f"{manager.api_url}/sandboxes", json={"templateID": "base"})
        assert answer.status_code == 401
        assert "X-API-Key is missing" in answer.json()["message"]

    @pytest.mark.parametrize("key", [b"", b"wrong", b"e2b_0", "é".encode()])
    def test_a_wrong_key_is_a_401_on_every_route(self, key: bytes, manager: RunningManager) -> None:
        for path in ("/v2/sandboxes", "/templates", "/sandboxes/x", "/nothing"):
            answer = httpx.get(f"{manager.api_url}{path}", headers={b"X-API-Key": key})
            assert answer.status_code == 401
            assert answer.json() == {
                "code": 401,
                "message": "Invalid API Key: this manager does not know the key that was sent; set E2B_API_KEY or "
                "api_key= to a key of this manager",
                "request_id": answer.headers["x-request-id"],
            }

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_health_is_at_the_root_too_where_load_balancers_ask(self, method: str, manager: RunningManager) -> None:
        answer = httpx.request(method, f"http://127.0.0.1:{manager.port}/health")
        assert (answer.status_code, answer.text) == (200, "OK" if method == "GET" else "")

    def test_health_needs_no_key(self, manager: RunningManager) -> None:
        assert httpx.get(f"{manager.api_url}/health").text == "OK"

    def test_the_key_is_in_no_log(self, manager: RunningManager, api: httpx.Client) -> None:
        api.get("/v2/sandboxes")
        assert manager.api_key not in manager.log.read_text()

    def test_envd_refuses_who_has_no_token(self, sandbox: Sandbox, manager: RunningManager) -> None:
        url = manager.sandbox_url(sandbox.sandbox_id, 49983)
        assert httpx.get(f"{url}/health").status_code == 204
        assert httpx.get(f"{url}/envs").status_code == 401
        assert httpx.post(f"{url}/process.Process/List", json={}).status_code == 401


class TestTemplates:
    def test_the_read_side(self, api: httpx.Client) -> None:
        names = [one["templateID"] for one in api.get("/templates").json()]
        assert names == ["base", "code-interpreter", "code-interpreter-v1"]
        detail = api.get("/templates/base").json()
        uuid.UUID(detail["builds"][0]["buildID"])
        assert api.get("/templates/aliases/base").json()["templateID"] == "base"
        assert api.get("/templates/aliases/team/none").status_code == 404
        assert [tag["tag"] for tag in api.get("/templates/base/tags").json()] == ["default"]

    def test_the_newer_list_is_paged(self, api: httpx.Client) -> None:
        first = api.get("/v2/templates", params={"limit": "2"})
        rest = api.get("/v2/templates", params={"limit": "2", "nextToken": first.headers["x-next-token"]})
        assert "x-next-token" not in rest.headers
        assert first.json() + rest.json() == api.get("/templates").json()
        assert api.get("/v2/templates", params={"limit": "0"}).status_code == 400

    def test_the_sdk_sees_which_exist(self, manager: RunningManager, patched: None) -> None:
        from e2b import Template

        options: dict[str, Any] = {"domain": manager.domain, "api_key": manager.api_key}
        assert Template.exists("code-interpreter-v1", **options) is True
        assert Template.exists("nope", **options) is False

    def test_base_has_no_code_interpreter(self, create: Create, manager: RunningManager) -> None:
        answer = httpx.get(manager.sandbox_url(create()["sandboxID"], 49999) + "/health")
        assert answer.json()["message"] == "The sandbox is running but port is not open"


def test_a_hundred_and_more_requests_at_once_are_all_answered(manager: RunningManager, api: httpx.Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(lambda _: api.get("/v2/sandboxes").status_code, range(128)))
    assert statuses == [200] * 128
