"""Traffic access tokens in requests, as a server on loopback sees them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import json
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import e2b
import pytest
from e2b.sandbox.main import SandboxBase

from kruise_agents.client.addresses.table import ADDRESSES
from kruise_agents.client.traffic_token.fetch import refresh_base
from kruise_agents.client.traffic_token.sandboxes import tokens_of
from kruise_agents.client.traffic_token.table import TRAFFIC_TOKENS
from kruise_agents.errors import KruiseAgentsError
from kruise_agents.patch_e2b import patch_e2b
from kruise_agents.patch_traffic_token import (
    TrafficAccessTokenError,
    TrafficAccessTokenExpired,
    patch_traffic_access_token,
    refresh_traffic_access_token,
    unpatch_traffic_access_token,
)
from support.recorder import Answer, RecordedRequest, Recorder
from support.sdk import ASYNC, SYNC, build_sandbox, class_name

HEADER = "e2b-traffic-access-token"
PROTECTED = {"security.agents.kruise.io/enable-jwt-auth": "true"}
HOUR = 3600


def jwt(seconds: float, mark: str) -> str:
    claims = {"iat": time.time(), "exp": time.time() + seconds, "mark": mark}
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


@dataclass
class Server(Recorder):
    """A server that answers the API calls that matter here, and from a sandbox only requests for files."""

    created: str | None = None
    metadata: dict[str, str] = field(default_factory=lambda: dict(PROTECTED))
    refusal: int | None = None
    validity: float = HOUR
    opaque: bool = False
    issued: list[str] = field(default_factory=list)

    def paths(self, ending: str) -> list[RecordedRequest]:
        return [request for request in self.requests if request.route.endswith(ending)]

    @property
    def refreshes(self) -> list[RecordedRequest]:
        return self.paths("/traffic-access-token")

    @property
    def data(self) -> list[RecordedRequest]:
        return [request for request in self.requests if on_the_data_plane(request)]

    def respond(self, request: RecordedRequest) -> Answer:
        sandbox = {"templateID": "t", "sandboxID": "sbx", "clientID": "c", "envdVersion": "0.4.0"}
        match request.method, request.route:
            case "POST", "/sandboxes/sbx/traffic-access-token":
                return self._refresh()
            case "POST", "/sandboxes" | "/v2/sandboxes":
                token = {"trafficAccessToken": self.created} if self.created else {}
                return Answer.json(201, {**sandbox, **token})
            case "POST", "/sandboxes/sbx/connect" | "/v2/sandboxes/sbx/connect":
                return Answer.json(200, sandbox)
            case "GET", "/sandboxes/sbx":
                times = {"startedAt": "2026-01-01T00:00:00Z", "endAt": "2026-01-01T01:00:00Z", "state": "running"}
                size = {"cpuCount": 1, "memoryMB": 1, "diskSizeMB": 1}
                return Answer.json(200, {**sandbox, **times, **size, "metadata": self.metadata})
        return super().respond(request)

    def _refresh(self) -> Answer:
        if self.refusal is not None:
            return Answer.json(self.refusal, {"code": self.refusal, "message": "no"})
        token = str(uuid.uuid4()) if self.opaque else jwt(self.validity, f"issued {len(self.issued)}")
        self.issued.append(token)
        expiration = datetime.fromtimestamp(time.time() + self.validity, UTC).isoformat()
        return Answer.json(200, {"trafficAccessToken": token, "trafficAccessTokenExpiration": expiration})


def on_the_data_plane(request: RecordedRequest) -> bool:
    return request.target.startswith("/kruise/sbx/")


def tokens(requests: Iterable[RecordedRequest]) -> list[str | None]:
    return [request.headers.get(HEADER) for request in requests]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as running:
        assert isinstance(running, Server)
        monkeypatch.setenv("E2B_DOMAIN", running.domain)
        with patch_e2b(False), patch_traffic_access_token():
            yield running
        unpatch_traffic_access_token()


def use(sandbox: Any) -> None:
    """Send a request with every data-plane client. The server answers errors to commands and code."""
    sandbox.files.write("/a", "text")
    sandbox.files.exists("/a")
    for call in (lambda: sandbox.commands.run("true"), lambda: sandbox.run_code("1")):
        with contextlib.suppress(e2b.SandboxException, AttributeError):
            call()
    assert sandbox.is_running()


async def use_async(sandbox: Any) -> None:
    await sandbox.files.write("/a", "text")
    await sandbox.files.exists("/a")
    for call in (lambda: sandbox.commands.run("true"), lambda: sandbox.run_code("1")):
        with contextlib.suppress(e2b.SandboxException, AttributeError):
            await call()
    assert await sandbox.is_running()


@pytest.fixture(params=[*SYNC, *ASYNC], ids=class_name)
def act(request: pytest.FixtureRequest) -> Callable[[Callable[[Any, Callable[[Any], Any]], Any]], Any]:
    """Runs a scenario, written as a coroutine, with a sandbox class of either colour.

    The scenario gets the class, and ``do``, which waits for what a call gave, when it is something to wait for.
    """
    cls = request.param

    def run(scenario: Callable[[Any, Callable[[Any], Any]], Coroutine[Any, Any, Any]]) -> Any:
        async def do(result: Any) -> Any:
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run(scenario(cls, do))

    return run


def exercise(sandbox: Any) -> Any:
    return use_async(sandbox) if any(isinstance(sandbox, cls) for cls in ASYNC) else use(sandbox)


def test_every_data_plane_request_carries_the_token_and_no_other_does(server: Server, act: Any) -> None:
    server.created = jwt(HOUR, "created")

    async def scenario(cls: Any, do: Any) -> None:
        sandbox = await do(cls.create())
        assert sandbox.traffic_access_token == server.created
        await do(exercise(sandbox))
        await do(sandbox.kill())

    act(scenario)
    assert len(server.data) >= 4
    assert set(tokens(server.data)) == {server.created}
    assert "/kruise/sbx/49983/process.Process/Start" in {request.target for request in server.data}
    assert set(tokens(request for request in server.requests if not on_the_data_plane(request))) == {None}
    assert server.refreshes == []


def test_a_token_near_its_end_is_refreshed_once_before_the_next_request(server: Server, act: Any) -> None:
    server.created = jwt(30, "created")

    async def scenario(cls: Any, do: Any) -> None:
        sandbox = await do(cls.create())
        await do(exercise(sandbox))
        assert sandbox.traffic_access_token == server.issued[0]

    act(scenario)
    assert set(tokens(server.data)) == set(server.issued)
    (refresh,) = server.refreshes
    assert (refresh.target, refresh.api_key) == ("/kruise/api/sandboxes/sbx/traffic-access-token", "e2b_00")
    assert HEADER not in refresh.headers


def test_a_failed_refresh_waits_and_the_old_token_is_used_meanwhile(server: Server, act: Any) -> None:
    server.created, server.refusal = jwt(50, "created"), 404

    async def scenario(cls: Any, do: Any) -> None:
        sandbox = await do(cls.create())
        await do(sandbox.files.exists("/a"))
        await do(sandbox.files.write("/a", "x"))

    act(scenario)
    assert set(tokens(server.data)) == {server.created}
    assert len(server.refreshes) == 1


@pytest.mark.parametrize("status", [401, 503])
def test_an_expired_token_is_never_sent(server: Server, act: Any, status: int) -> None:
    server.created, server.refusal = jwt(-1, "created"), status

    async def scenario(cls: Any, do: Any) -> None:
        sandbox = await do(cls.create())
        calls = [
            lambda: sandbox.files.write("/a", "x"),
            lambda: sandbox.files.read("/a"),
            lambda: sandbox.files.list("/"),
            lambda: sandbox.commands.run("true"),
            lambda: sandbox.commands.run("true", background=True),
            lambda: sandbox.commands.list(),
            lambda: sandbox.is_running(),
            lambda: sandbox.refresh_traffic_access_token(),
        ]
        if hasattr(sandbox, "run_code"):
            calls += [lambda: sandbox.run_code("1"), lambda: sandbox.create_code_context()]
        for call in calls:
            with pytest.raises(TrafficAccessTokenExpired, match="expired before it could be refreshed"):
                await do(call())

    act(scenario)
    assert server.data == []
    assert len(server.refreshes) == 1, "the backoff holds the others back"


def test_a_sandbox_that_is_gone_is_told_by_the_manager(server: Server, act: Any) -> None:
    """The refresh is answered with 404. The request itself goes without a token, and the SDK knows its answer."""
    server.created, server.refusal = jwt(-1, "created"), 404

    async def scenario(cls: Any, do: Any) -> None:
        sandbox = await do(cls.create())
        await do(sandbox.files.write("/a", "x"))
        assert await do(sandbox.is_running())
        with pytest.raises(TrafficAccessTokenExpired):
            await do(sandbox.refresh_traffic_access_token())

    act(scenario)
    assert len(server.data) == 2
    assert set(tokens(server.data)) == {None}


def test_connect_asks_once_and_the_first_request_fetches_a_token(server: Server, act: Any) -> None:
    async def scenario(cls: Any, do: Any) -> None:
        sandbox = await do(cls.connect("sbx"))
        assert (len(server.paths("/sandboxes/sbx")), server.refreshes) == (1, [])
        assert sandbox.traffic_access_token is None
        await do(exercise(sandbox))
        assert await do(sandbox.connect()) is sandbox
        await do(sandbox.files.exists("/a"))

    act(scenario)
    assert set(tokens(server.data)) == set(server.issued)
    assert len(server.refreshes) == len(server.paths("/sandboxes/sbx")) == 1


@pytest.mark.parametrize("metadata", [{}, {next(iter(PROTECTED)): "True"}, {next(iter(PROTECTED)): "1"}])
def test_a_sandbox_that_is_not_protected_needs_none(server: Server, act: Any, metadata: dict[str, str]) -> None:
    server.metadata = metadata

    async def scenario(cls: Any, do: Any) -> None:
        await do((await do(cls.connect("sbx"))).files.exists("/a"))
        await do((await do(cls.create())).files.exists("/a"))

    act(scenario)
    assert set(tokens(server.data)) == {None}
    assert server.refreshes == []
    assert len(server.paths("/sandboxes/sbx")) == 1, "only connect asks"


def test_connect_of_an_object_keeps_its_token(server: Server, act: Any) -> None:
    server.created = jwt(HOUR, "created")

    async def scenario(cls: Any, do: Any) -> None:
        sandbox = await do(cls.create())
        await do(sandbox.connect())
        await do(sandbox.files.exists("/a"))

    act(scenario)
    assert set(tokens(server.data)) == {server.created}
    assert server.paths("/sandboxes/sbx") == server.refreshes == []


def test_an_opaque_token_of_a_create_is_sent_to_every_port_and_never_renewed(server: Server, act: Any) -> None:
    server.created = "7d9f1c1e-1111-4222-8333-944455556666"

    async def scenario(cls: Any, do: Any) -> None:
        sandbox = await do(cls.create())
        await do(exercise(sandbox))
        assert sandbox.traffic_access_token == server.created

    act(scenario)
    assert set(tokens(server.data)) == {server.created}
    assert server.refreshes == []


def test_an_opaque_token_of_a_refresh_is_sent_until_its_end(server: Server, act: Any) -> None:
    """OpenKruise's manager answers with a UUID that is valid for 100 years, unless another issuer is plugged in."""
    server.opaque, server.validity = True, 100 * 365 * 24 * HOUR

    async def scenario(cls: Any, do: Any) -> None:
        sandbox = await do(cls.connect("sbx"))
        await do(exercise(sandbox))
        assert sandbox.traffic_access_token == server.issued[0]
        token = await do(refresh_traffic_access_token(sandbox))
        assert token == server.issued[0]
        assert token.expires_at > datetime.now(UTC)
        server.validity = 30
        assert await do(refresh_traffic_access_token(sandbox, force=True)) == server.issued[1]
        await do(sandbox.files.exists("/a"))

    act(scenario)
    assert set(tokens(server.data[:-1])) == {server.issued[0]}
    assert tokens(server.data[-1:]) == [server.issued[2]], "the second token was near its end"
    assert len(server.refreshes) == 3


def test_a_forced_refresh_gives_a_new_token_that_is_used_from_then_on(server: Server, act: Any) -> None:
    server.created = jwt(HOUR, "created")

    async def scenario(cls: Any, do: Any) -> None:
        sandbox = await do(cls.create())
        assert await do(sandbox.refresh_traffic_access_token()) == server.created
        assert await do(refresh_traffic_access_token(sandbox)) == server.created
        token = await do(refresh_traffic_access_token(sandbox, force=True))
        assert token == sandbox.traffic_access_token == server.issued[0]
        assert token.expires_at > datetime.now(UTC)
        await do(sandbox.files.exists("/a"))

    act(scenario)
    assert set(tokens(server.data)) == set(server.issued)
    assert len(server.refreshes) == 1


def test_a_refresh_without_the_patch_says_what_to_do() -> None:
    with pytest.raises(TrafficAccessTokenError, match=r"call patch_traffic_access_token\(\)"):
        refresh_traffic_access_token(build_sandbox())


def test_a_native_api_url_does_not_divert_the_refresh(server: Server, act: Any) -> None:
    server.created = jwt(-1, "created")

    async def scenario(cls: Any, do: Any) -> None:
        sandbox = await do(cls.create(api_url=f"http://{server.domain}"))
        await do(sandbox.files.exists("/a"))

    act(scenario)
    assert [request.target for request in server.refreshes] == ["/kruise/api/sandboxes/sbx/traffic-access-token"]
    assert set(tokens(server.data)) == set(server.issued)


def test_a_key_for_a_stated_api_url_is_not_taken_to_another_host_for_a_refresh(server: Server, act: Any) -> None:
    """If the stated API URL has a host that is unrelated to the domain, the key goes to this host only."""
    server.created = jwt(-1, "created")

    async def scenario(cls: Any, do: Any) -> None:
        sandbox = await do(cls.create(api_url=f"http://{server.domain}", domain=elsewhere.domain))
        await do(sandbox.refresh_traffic_access_token(force=True))

    with Server() as elsewhere:
        act(scenario)
    assert [request.target for request in server.refreshes] == ["/kruise/api/sandboxes/sbx/traffic-access-token"]
    assert {request.api_key for request in server.refreshes} == {"e2b_00"}
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("stated", "base"),
    [
        ("https://api.d.example", "https://d.example/kruise/api"),
        ("https://API.D.example:443/", "https://d.example/kruise/api"),
        ("http://d.example/kruise/api", "http://d.example/kruise/api"),
        ("http://other.example/kruise/api/", "http://other.example/kruise/api"),
        ("https://manager.internal:8080", "https://manager.internal:8080/kruise/api"),
        ("https://manager.internal/e2b/", "https://manager.internal/e2b/kruise/api"),
    ],
)
def test_a_refresh_goes_to_the_host_of_the_api_or_from_its_native_name_to_the_domain(stated: str, base: str) -> None:
    config = e2b.ConnectionConfig(domain="d.example", api_url=stated)
    assert refresh_base(config, "https://d.example/kruise/sbx/49983") == base


def test_under_the_address_patch_the_key_goes_along_to_a_refresh_of_a_native_api_url(
    server: Server, act: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API's own name is another host than the host of refreshes, but both belong to the same domain."""
    monkeypatch.setenv("E2B_DOMAIN", server.domain.replace("127.0.0.1", "localhost"))
    server.created = jwt(-1, "created")

    async def scenario(cls: Any, do: Any) -> None:
        with patch_e2b(False):
            sandbox = await do(cls.create(api_url=f"http://{server.domain}/kruise/api"))
            sandbox.connection_config.api_url = f"http://api.localhost:{server.domain.partition(':')[2]}"
            await do(sandbox.refresh_traffic_access_token(force=True))

    act(scenario)
    assert {request.api_key for request in server.refreshes} == {"e2b_00"}


def test_debug_mode_does_nothing(server: Server, act: Any) -> None:
    async def scenario(cls: Any, do: Any) -> None:
        sandbox = build_sandbox(cls, e2b.ConnectionConfig(debug=True))
        assert await do(sandbox.refresh_traffic_access_token(force=True)) == ""

    act(scenario)
    assert server.requests == []


def test_two_objects_of_one_configuration_keep_their_own_tokens(server: Server, act: Any) -> None:
    async def scenario(cls: Any, do: Any) -> None:
        config = e2b.ConnectionConfig()
        issued = [jwt(HOUR, "one"), jwt(HOUR, "other")]
        for sandbox in [build_sandbox(cls, config, traffic_access_token=token) for token in issued]:
            with contextlib.suppress(e2b.SandboxException):
                await do(sandbox.files.write("/a", "x"))
            with contextlib.suppress(e2b.SandboxException):
                await do(sandbox.commands.list())
        assert tokens(request for request in server.data if request.target.endswith("List")) == issued
        assert set(tokens(server.data)) == set(issued)

    act(scenario)


def test_every_thread_carries_the_token(server: Server) -> None:
    server.created = jwt(HOUR, "created")
    sandbox = e2b.Sandbox.create()
    thread = threading.Thread(target=use, args=(sandbox,))
    thread.start()
    thread.join()
    assert len(server.data) >= 4
    assert set(tokens(server.data)) == {server.created}


@pytest.mark.parametrize("order", [1, -1])
def test_both_patches_come_and_go_in_any_order(order: int) -> None:
    classes = [e2b.Sandbox, e2b.AsyncSandbox, e2b.ConnectionConfig, SandboxBase]
    before = [dict(vars(cls)) for cls in classes]
    patches = [patch() for patch in (patch_e2b, patch_traffic_access_token)[::order]]
    again = patch_traffic_access_token()
    for patch in patches:
        patch.close()
    assert hasattr(e2b.Sandbox, "refresh_traffic_access_token"), "the second handle is still open"
    again.close()
    assert [dict(vars(cls)) for cls in classes] == before


def test_an_object_made_before_the_patch_says_so(server: Server) -> None:
    unpatch_traffic_access_token()
    sandbox = e2b.Sandbox.create()
    with (
        patch_traffic_access_token(),
        pytest.raises(KruiseAgentsError, match=r"before patch_traffic_access_token\(\)"),
    ):
        sandbox.refresh_traffic_access_token()  # type: ignore[attr-defined]  # the patch would add it


def test_the_tables_of_the_two_patches_have_no_target_in_common() -> None:
    def places(targets: Any) -> set[tuple[str, str, str]]:
        return {(target.place.module, target.place.owner, target.place.attribute) for target in targets}

    assert places(TRAFFIC_TOKENS.targets).isdisjoint(places(ADDRESSES.targets))


@pytest.mark.parametrize("cls", [*SYNC, *ASYNC], ids=class_name)
def test_the_configuration_of_an_object_can_be_copied_and_pickled_and_takes_no_token_along(cls: type) -> None:
    """A copy belongs to no sandbox yet. An object that is made with the copy has a token of its own."""
    patch_e2b()
    patch_traffic_access_token()

    async def configurations() -> list[Any]:
        config = build_sandbox(cls, traffic_access_token=jwt(HOUR, "first")).connection_config
        return [copy.deepcopy(config), pickle.loads(pickle.dumps(config))]

    for copied in asyncio.run(configurations()):
        assert copied.get_sandbox_url("sbx", None) == "https://example.com/kruise/sbx/49983"
        assert "first" not in repr(vars(copied))
        assert tokens_of(copied) is None
