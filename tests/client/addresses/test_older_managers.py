"""Calls of every SDK that a sandbox-manager without v2 routes would misread: translated, answered, told or refused.

The manager is an imitation of OpenKruise's of August 2026, as far as these calls go.
"""

from __future__ import annotations

import asyncio
import datetime
import inspect
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

import e2b
import pytest
from packaging.version import Version

from kruise_agents.errors import UnsupportedByManagerError
from kruise_agents.patch_e2b import OlderManagerWarning, patch_e2b
from support.recorder import Answer, RecordedRequest, Recorder
from support.sdk import E2B_VERSION, needs_e2b

PROBE = "POST /v2/sandboxes"
V2_CREATE = Version("2.51.0") <= E2B_VERSION
SNAPSHOT = Answer.json(201, {"snapshotID": "snap", "names": None})


class OlderManager(Recorder):
    """OpenKruise's manager, as far as lists, creates, pauses, snapshots and rules go."""

    sandboxes: list[dict[str, Any]]

    def respond(self, request: RecordedRequest) -> Answer:
        action = request.route.rpartition("/")[2]
        match request.method, action:
            case "POST", "sandboxes" if request.route.startswith("/v2/"):
                return Answer.text(405, "Method Not Allowed\n", Allow="GET, HEAD")
            case "GET", "sandboxes":
                return self.page(dict(parse_qsl(urlsplit(request.target).query)))
            case ("POST", "pause") | ("PUT", "network"):
                return Answer(204)
            case "POST", "snapshots":
                return SNAPSHOT
            case "GET", "snapshots":
                return Answer.json(200, [{"snapshotID": "snap", "names": None}])
        return super().respond(request)

    def page(self, query: dict[str, str]) -> Answer:
        limit, start = int(query.pop("limit", "100")), int(query.pop("nextToken", "0"))
        query.pop("state", None)
        filters = [pair.split("=", 1) for pair in unquote_plus(query.pop("metadata", "")).split("&") if pair]
        filters += [list(pair) for pair in query.items()]
        found = [s for s in self.sandboxes if all(s["metadata"].get(key) == value for key, value in filters)]
        more = {"x-next-token": str(start + limit)} if len(found) > start + limit else {}
        return Answer(
            200, json.dumps(found[start : start + limit]).encode(), {"Content-Type": "application/json", **more}
        )


def sandbox(number: int, **fields: Any) -> dict[str, Any]:
    started = f"2026-08-22T08:{number // 2:02}:00Z"  # two in the same second
    usual = {"templateID": "even" if number % 2 == 0 else "odd", "sandboxID": f"s{number:03}", "clientID": ""}
    sizes = {"cpuCount": 0, "memoryMB": 0, "diskSizeMB": 0, "envdVersion": "0.2.10", "alias": "", "state": "running"}
    return {**usual, **sizes, "startedAt": started, "endAt": "2026-08-22T09:00:00Z", "metadata": {}, **fields}


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[OlderManager]:
    manager = OlderManager()
    with manager:
        manager.sandboxes = [sandbox(number) for number in range(12)]
        monkeypatch.setenv("E2B_DOMAIN", manager.domain)
        monkeypatch.setattr("kruise_agents.client.addresses.v1_bridge._known", {})
        patch_e2b(False)
        yield manager


def update_network(rules: dict[str, Any]) -> None:
    update: Any = e2b.Sandbox.update_network  # its type is not in every release
    update("sbx", rules)


def sent(manager: Recorder, call: str) -> list[Any]:
    """Return the bodies of all requests like ``call``."""
    found = [r for r in manager.requests if f"{r.method} {r.route}" == call]
    return [json.loads(request.body) if request.body else None for request in found]


CREATES: dict[str, Callable[..., Any]] = {
    "sync": lambda **options: e2b.Sandbox.create(**options),
    "async": lambda **options: asyncio.run(e2b.AsyncSandbox.create(**options)),
}
if not hasattr(e2b.Sandbox, "create"):
    CREATES["sync"] = lambda **options: e2b.Sandbox(**options)


@pytest.mark.parametrize("create", CREATES.values(), ids=CREATES)
def test_a_sandbox_without_internet_gets_a_rule_that_denies_everything(
    create: Callable[..., Any], manager: OlderManager
) -> None:
    create(allow_internet_access=False)
    (body,) = sent(manager, "POST /sandboxes")
    assert body["network"] == {"denyOut": ["0.0.0.0/0"]}
    create(allow_internet_access=False, network={"allow_out": ["1.1.1.1"], "deny_out": ["8.8.8.8"]})
    network = sent(manager, "POST /sandboxes")[1]["network"]
    assert (network["allowOut"], network["denyOut"]) == (["1.1.1.1"], ["8.8.8.8", "0.0.0.0/0"])
    assert manager.api_calls == [PROBE, "POST /sandboxes", "POST /sandboxes"]


def test_a_create_that_an_older_manager_reads_rightly_is_not_preceded_by_a_probe(manager: OlderManager) -> None:
    CREATES["sync"](metadata={"k": "v"}, timeout=60, network={"deny_out": ["8.8.8.8"]})
    assert manager.api_calls == ([PROBE] if V2_CREATE else []) + ["POST /sandboxes"]


REFUSED_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "network.allowPublicTraffic: false": ({"network": {"allow_public_traffic": False}}, "2.8.0"),
    "network.maskRequestHost": ({"network": {"mask_request_host": "localhost:3000"}}, "2.8.0"),
    "network.rules": ({"network": {"rules": {"a.example": [{"transform": {"headers": {"a": "b"}}}]}}}, "2.24.0"),
    "mcp": ({"mcp": {"github": {}}}, "2.8.0"),
    "autoResume": ({"lifecycle": {"on_timeout": "pause", "auto_resume": True}}, "2.24.0"),
    "autoPauseMemory: false": ({"lifecycle": {"on_timeout": {"action": "pause", "keep_memory": False}}}, "2.37.1"),
    "network.egressProxy": ({"network": {"egress_proxy": {"address": "a.example:1080"}}}, "2.50.0"),
    "network.httpsPorts": ({"network": {"https_ports": [8443]}}, "2.50.0"),
    "network.dnsServers": ({"network": {"dns_servers": ["1.1.1.1"]}}, "2.63.0"),
}


NAMES = [name for name, (_, since) in REFUSED_OPTIONS.items() if Version(since) <= E2B_VERSION]


@pytest.mark.parametrize("named", NAMES)
@pytest.mark.parametrize("create", CREATES.values(), ids=CREATES)
def test_an_option_that_an_older_manager_ignores_is_refused(
    create: Callable[..., Any], named: str, manager: OlderManager
) -> None:
    with pytest.raises(UnsupportedByManagerError, match=f"ignores {named}, so the call was given up"):
        create(**REFUSED_OPTIONS[named][0])
    assert manager.api_calls == [PROBE]


@pytest.mark.parametrize("named", [name for name in NAMES if name != "mcp"])  # mcp starts a program
def test_a_newer_manager_gets_every_option(named: str, manager: OlderManager) -> None:
    created = manager.respond(RecordedRequest("POST", "/sandboxes"))
    refused = Answer.json(400, {"code": 400, "message": "templateID is missing"})
    manager.special[PROBE] = [created] if V2_CREATE else [refused]
    for _ in range(2):
        CREATES["sync"](**REFUSED_OPTIONS[named][0])
    create = PROBE if V2_CREATE else "POST /sandboxes"
    assert manager.api_calls == ([] if V2_CREATE else [PROBE]) + [create, create]


@needs_e2b("2.24.0", "update_network")
def test_rules_that_close_a_running_sandbox_close_it(manager: OlderManager) -> None:
    update_network({"allow_internet_access": False})
    update_network({"allow_out": ["1.1.1.1"], "deny_out": ["8.8.8.8"], "allow_internet_access": False})
    first, second = sent(manager, "PUT /sandboxes/sbx/network")
    assert first["denyOut"] == ["0.0.0.0/0"]
    assert (second["allowOut"], second["denyOut"]) == (["1.1.1.1"], ["8.8.8.8", "0.0.0.0/0"])
    assert manager.api_calls[0] == PROBE


@needs_e2b("2.24.0", "update_network")
def test_rules_that_an_older_manager_reads_are_not_preceded_by_a_probe(manager: OlderManager) -> None:
    update_network({"deny_out": ["0.0.0.0/0"], "allow_internet_access": True})
    asyncio.run(e2b.AsyncSandbox.update_network("sbx", {}))
    assert manager.api_calls == ["PUT /sandboxes/sbx/network"] * 2


@needs_e2b("2.24.0", "update_network")
@pytest.mark.parametrize(
    ("rules", "named", "since"),
    [
        ({"rules": {"a.example": [{"transform": {"headers": {"a": "b"}}}]}}, "rules", "2.24.0"),
        ({"egress_proxy": {"address": "a.example:1080"}}, "egressProxy", "2.50.0"),
        ({"deny_out": ["0.0.0.0/0"], "dns_servers": ["1.1.1.1"]}, "dnsServers", "2.63.0"),
    ],
)
def test_rules_that_would_be_dropped_are_refused(
    rules: dict[str, Any], named: str, since: str, manager: OlderManager
) -> None:
    if Version(since) > E2B_VERSION:
        pytest.skip(f"{named} came with e2b {since}")
    with pytest.raises(UnsupportedByManagerError, match=f"ignores {named}, so"):
        update_network(rules)
    assert manager.api_calls == [PROBE]


def pause(**options: Any) -> None:
    """Pause by the name that the method has in this SDK."""
    method = "pause" if hasattr(e2b.Sandbox, "pause") else "beta_pause"
    getattr(e2b.Sandbox, method)("sbx", **options)


def test_a_pause_is_told_once_what_it_loses(manager: OlderManager) -> None:
    with pytest.warns(OlderManagerWarning, match="files outside of volumes are gone") as told:
        pause()
    assert [warning.filename for warning in told] == [__file__]
    pause()
    assert manager.api_calls == [PROBE, "POST /sandboxes/sbx/pause", "POST /sandboxes/sbx/pause"]


def test_a_pause_is_not_sent_while_its_warning_is_an_error(manager: OlderManager) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(OlderManagerWarning):
                pause()
    assert manager.api_calls == [PROBE]


@pytest.mark.parametrize("refusal", [Answer.json(401, {"code": 401, "message": "no"}), Answer.text(404, "no route")])
def test_a_pause_is_told_what_it_loses_although_the_manager_could_not_be_asked_before(
    refusal: Answer, manager: OlderManager
) -> None:
    manager.special[PROBE] = [refusal]
    pause()
    del manager.special[PROBE]
    with pytest.warns(OlderManagerWarning):
        pause()


def test_an_async_pause_is_told_at_its_own_line(manager: OlderManager) -> None:
    async def program() -> None:
        sandbox = await e2b.AsyncSandbox.create()
        await (sandbox.pause() if hasattr(sandbox, "pause") else sandbox.beta_pause())

    with pytest.warns(OlderManagerWarning) as told:
        asyncio.run(program())
    assert [warning.filename for warning in told] == [__file__]


@needs_e2b("2.24.0", "lifecycle=")
def test_a_call_that_is_a_task_of_its_own_is_told_at_a_line_of_the_program(manager: OlderManager) -> None:
    async def program() -> None:
        create: Any = e2b.AsyncSandbox.create
        await asyncio.gather(create(lifecycle={"on_timeout": "pause"}), create())

    with pytest.warns(OlderManagerWarning) as told:
        asyncio.run(program())
    assert [warning.filename for warning in told] == [__file__]


def test_a_pause_goes_on_where_the_manager_cannot_be_asked(manager: OlderManager) -> None:
    manager.special[PROBE] = [Answer.json(503, {"code": 503, "message": "no"})]
    pause()
    assert manager.api_calls[-1] == "POST /sandboxes/sbx/pause"


def test_a_newer_manager_is_asked_once_before_pauses(manager: OlderManager) -> None:
    manager.special[PROBE] = [Answer.json(400, {"code": 400, "message": "templateID is missing"})]
    pause()
    pause()
    assert manager.api_calls == [PROBE, "POST /sandboxes/sbx/pause", "POST /sandboxes/sbx/pause"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"keep_memory": False}, "memory: false"),
        ({"mode": "filesystem"}, "memory: false"),
        ({"strict": True}, "requireHealthyGuest"),
    ],
)
def test_a_pause_that_would_lose_what_it_is_to_keep_is_refused(
    options: dict[str, Any], named: str, manager: OlderManager
) -> None:
    cls_pause = getattr(e2b.Sandbox, "_cls_pause", None)
    if cls_pause is None or not options.keys() <= inspect.signature(cls_pause).parameters.keys():
        pytest.skip(f"this SDK has no {', '.join(options)}")
    with pytest.raises(UnsupportedByManagerError, match=f"ignores {named}, so"):
        pause(**options)
    assert manager.api_calls == [PROBE]
    with pytest.warns(OlderManagerWarning):
        pause()


@needs_e2b("2.24.0", "lifecycle=")
def test_a_pause_at_the_end_time_is_told_at_the_create(manager: OlderManager) -> None:
    with pytest.warns(OlderManagerWarning, match="a pause ends the pod") as told:
        CREATES["sync"](lifecycle={"on_timeout": "pause"})
    assert [warning.filename for warning in told] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pause()


@needs_e2b("2.24.0", "create_snapshot")
def test_the_name_of_a_snapshot_is_told_to_mean_nothing(manager: OlderManager) -> None:
    if "name" not in inspect.signature(e2b.Sandbox._cls_create_snapshot).parameters:
        pytest.skip("this SDK names no snapshots")
    with pytest.warns(OlderManagerWarning, match="a snapshot gets no name"):
        assert e2b.Sandbox.create_snapshot("sbx", name="n").snapshot_id == "snap"
    assert e2b.Sandbox.create_snapshot("sbx").snapshot_id == "snap"
    assert manager.api_calls == [PROBE] + ["POST /sandboxes/sbx/snapshots"] * 2


@needs_e2b("2.63.0", "the mode of snapshots")
def test_the_mode_of_a_snapshot_becomes_the_managers_header(manager: OlderManager) -> None:
    e2b.Sandbox.create_snapshot("sbx", mode="filesystem")
    assert manager.requests[-1].headers["x-e2b-kruise-snapshot-persistent-contents"] == "filesystem"


@needs_e2b("2.37.1", "the names of snapshots")
def test_a_list_of_snapshots_by_name_is_refused(manager: OlderManager) -> None:
    with pytest.raises(UnsupportedByManagerError, match="ignores name, so"):
        e2b.Sandbox.list_snapshots(name="n").next_items()
    assert len(e2b.Sandbox.list_snapshots(sandbox_id="sbx").next_items()) == 1


def every_page(*, asynchronous: bool = False, **options: Any) -> list[list[str]]:
    """Return the IDs of a list, page by page."""

    async def pages() -> list[list[str]]:
        paginator = e2b.AsyncSandbox.list(**options)
        found = []
        while paginator.has_next:
            found.append([info.sandbox_id for info in await paginator.next_items()])
        return found

    if asynchronous:
        return asyncio.run(pages())
    paginator = e2b.Sandbox.list(**options)
    found = []
    while paginator.has_next:
        found.append([info.sandbox_id for info in paginator.next_items()])
    return found


def test_a_plain_list_is_sent_as_it_is(manager: OlderManager) -> None:
    assert every_page(limit=10) == [[f"s{n:03}" for n in range(10)], ["s010", "s011"]]
    assert len(manager.requests) == 2


needs_queries = needs_e2b("2.50.0", "filters and order of lists")


@needs_queries
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_list_by_template_has_its_sandboxes(asynchronous: bool, manager: OlderManager) -> None:
    found = every_page(asynchronous=asynchronous, query=e2b.SandboxQuery(template="Odd"), limit=4)
    assert found == [["s001", "s003"], ["s005", "s007"], ["s009", "s011"]]
    assert manager.api_calls[0] == PROBE
    assert all("template" not in target for target in manager.targets)


@needs_queries
def test_a_page_without_a_match_is_not_shown_while_there_are_more(manager: OlderManager) -> None:
    manager.sandboxes[-1]["templateID"] = "rare"
    assert every_page(query=e2b.SandboxQuery(template="rare"), limit=2) == [["s011"]]
    assert every_page(query=e2b.SandboxQuery(template="none"), limit=5) == [[]]


@needs_queries
def test_a_list_of_sandboxes_started_at_a_time_or_later(manager: OlderManager) -> None:
    start = datetime.datetime(2026, 8, 22, 8, 4, tzinfo=datetime.UTC)
    assert every_page(query=e2b.SandboxQuery(started_after=start)) == [["s008", "s009", "s010", "s011"]]
    # The manager has cut the fractions off its times.
    inside = start + datetime.timedelta(milliseconds=400)
    assert every_page(query=e2b.SandboxQuery(started_after=inside)) == [["s008", "s009", "s010", "s011"]]
    assert every_page(query=e2b.SandboxQuery(started_after=start + datetime.timedelta(seconds=1))) == [["s010", "s011"]]


@needs_queries
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 5, 12])
def test_a_list_with_the_newest_first(limit: int | None, asynchronous: bool, manager: OlderManager) -> None:
    found = every_page(asynchronous=asynchronous, order="desc", limit=limit)
    assert [sandbox_id for page in found for sandbox_id in page] == [f"s{number:03}" for number in range(11, -1, -1)]
    assert {len(page) for page in found[:-1]} <= {limit}
    assert every_page(asynchronous=asynchronous, order="asc", limit=limit)[0][0] == "s000"


@needs_queries
def test_the_newest_of_more_sandboxes_than_a_page_holds(manager: OlderManager) -> None:
    manager.sandboxes = [
        sandbox(number, startedAt=f"2026-08-22T08:{number // 60:02}:{number % 60:02}Z") for number in range(250)
    ]
    found = every_page(order="desc", query=e2b.SandboxQuery(template="even"))
    assert [len(page) for page in found] == [100, 25]
    assert found[0][0] == "s248"


@needs_queries
def test_a_sandbox_that_ends_between_two_pages_shifts_nothing(manager: OlderManager) -> None:
    paginator = e2b.Sandbox.list(order="desc", limit=5)
    first = [info.sandbox_id for info in paginator.next_items()]
    manager.sandboxes = [s for s in manager.sandboxes if s["sandboxID"] not in ("s007", "s009")] + [sandbox(20)]
    assert first[-1] == "s007"
    assert [info.sandbox_id for info in paginator.next_items()] == ["s006", "s005", "s004", "s003", "s002"]


@needs_queries
def test_an_error_within_a_selected_list_is_the_sdks(manager: OlderManager) -> None:
    manager.special["GET /v2/sandboxes"] = [Answer.json(401, {"code": 401, "message": "Invalid API Key"})]
    with pytest.raises(Exception, match="Invalid API Key"):
        every_page(order="desc")


@needs_queries
def test_a_newer_manager_gets_the_query(manager: OlderManager) -> None:
    manager.special[PROBE] = [Answer.json(400, {"code": 400, "message": "templateID is missing"})]
    manager.special["GET /v2/sandboxes"] = [Answer.json(200, [])]
    for _ in range(2):
        assert every_page(order="desc", query=e2b.SandboxQuery(template="odd")) == [[]]
    assert [call.partition("?")[0] for call in manager.api_calls] == [PROBE] + ["GET /v2/sandboxes"] * 2
    assert "order=desc" in manager.targets[-1]
    assert "template=odd" in manager.targets[-1]


@pytest.mark.parametrize("value", ["a b", "x@y.example", "a&b=c", "50%", "中文", "plain.value/1"])
def test_a_list_by_metadata_finds_every_value(value: str, manager: OlderManager) -> None:
    manager.sandboxes = [sandbox(0), sandbox(1, metadata={"user": value, "k": "v"}), sandbox(2, metadata={"k": "v"})]
    assert every_page(query=e2b.SandboxQuery(metadata={"user": value, "k": "v"})) == [["s001"]]
    assert (manager.api_calls[0] == PROBE) == (value != "plain.value/1")


@needs_e2b("2.24.0", "Template.exists")
def test_a_template_is_found_by_its_name(manager: OlderManager) -> None:
    known = {"templateID": "known", "public": True, "aliases": ["known"], "names": ["known"], "builds": []}
    manager.special |= {
        "GET /templates/known": [Answer.json(200, known)],
        "GET /templates/other": [Answer.json(404, {"code": 404, "message": "Template not found: other"})],
    }
    assert e2b.Template.exists("known")
    assert not e2b.Template.exists("other")
    assert asyncio.run(e2b.AsyncTemplate.exists("known"))
    assert manager.api_calls == [PROBE, "GET /templates/known", "GET /templates/other", "GET /templates/known"]


@needs_e2b("2.24.0", "Template.exists")
def test_no_template_is_missed_where_there_may_be_no_manager(manager: OlderManager) -> None:
    manager.special[PROBE] = [Answer.text(404, "404 page not found\n")]
    with pytest.raises(UnsupportedByManagerError, match="there is none at all at that address"):
        e2b.Template.exists("known")
