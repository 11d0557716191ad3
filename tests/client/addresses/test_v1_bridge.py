"""e2b 2.51.0 and later on a sandbox-manager without v2 routes: what is sent, what is refused, and never twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import e2b
import httpx
import pytest

from kruise_agents.errors import UnsupportedByManagerError
from kruise_agents.patch_e2b import OlderManagerWarning, patch_e2b
from support.recorder import Answer, Recorder
from support.sdk import needs_e2b

pytestmark = needs_e2b("2.51.0", "the v2 route of create")

V2, V1 = "POST /v2/sandboxes", "POST /sandboxes"
CONNECT_V2, CONNECT_V1 = "POST /v2/sandboxes/sbx/connect", "POST /sandboxes/sbx/connect"
CREATED = Answer.json(201, {"templateID": "t", "sandboxID": "sbx", "clientID": "c", "envdVersion": "0.4.0"})
NO_METHOD = Answer.text(405, "Method Not Allowed\n", Allow="GET, HEAD")
NO_PATH = Answer.text(404, "404 page not found\n")
NO_SANDBOX = Answer.json(404, {"code": 404, "message": "sandbox not found"})


def refusal(status: int) -> Answer:
    return Answer.json(status, {"code": status, "message": "no"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A manager without v2 routes, unless ``special`` has other answers."""
    missing: dict[str, list[Answer]] = {V2: [NO_METHOD], CONNECT_V2: [NO_METHOD], CONNECT_V1: [CREATED]}
    with Recorder(special=missing) as server:
        monkeypatch.setenv("E2B_DOMAIN", server.domain)
        monkeypatch.setattr("kruise_agents.client.addresses.v1_bridge._known", {})
        patch_e2b(False)
        yield server


def create_sync(**options: Any) -> Any:
    return e2b.Sandbox.create(**options)


def create_async(**options: Any) -> Any:
    return asyncio.run(e2b.AsyncSandbox.create(**options))


def create_by_client(**options: Any) -> Any:
    return e2b.E2B(api_key="e2b_11").Sandbox.create(**options)


def connect_sync(**options: Any) -> Any:
    return e2b.Sandbox.connect("sbx", **options)


def connect_async(**options: Any) -> Any:
    return asyncio.run(e2b.AsyncSandbox.connect("sbx", **options))


@pytest.mark.parametrize("create", [create_sync, create_async, create_by_client])
def test_a_create_goes_over_v1_and_v2_is_tried_once_in_a_process(create: Callable[..., Any], server: Recorder) -> None:
    for _ in range(3):
        assert create(timeout=60, metadata={"k": "v"}).sandbox_id == "sbx"
    assert server.api_calls == [V2, V1, V1, V1]
    first, second = server.requests[:2]
    asked, sent = json.loads(first.body), json.loads(second.body)
    assert sent == {**asked, "timeout": 60, "secure": True}
    assert {**first.headers, "content-length": ""} == {**second.headers, "content-length": ""}


def test_what_one_client_learned_counts_for_all(server: Recorder) -> None:
    create_sync()
    create_async()
    connect_sync()
    assert server.api_calls == [V2, V1, V1, CONNECT_V1]


def test_a_create_without_a_timeout_means_300_seconds(server: Recorder) -> None:
    create_sync()
    assert json.loads(server.requests[1].body)["timeout"] == 300


@pytest.mark.parametrize("connect", [connect_sync, connect_async])
def test_a_connect_goes_over_v1_with_its_timeout_filled_in(connect: Callable[..., Any], server: Recorder) -> None:
    connect()
    connect(timeout=60)
    assert server.api_calls == [CONNECT_V2, CONNECT_V1, CONNECT_V1]
    assert [json.loads(request.body)["timeout"] for request in server.requests[1:]] == [300, 60]


def test_a_text_404_leads_to_v1_as_well(server: Recorder) -> None:
    server.special[V2] = [NO_PATH]
    create_sync()
    create_sync()
    assert server.api_calls == [V2, V1, V1]


@pytest.mark.parametrize("older", [NO_PATH, refusal(502)])
def test_a_404_of_a_proxy_that_lost_its_manager_teaches_nothing(older: Answer, server: Recorder) -> None:
    server.special |= {V2: [NO_PATH, CREATED], V1: [older]}
    with pytest.raises(Exception, match=r"404|502|Extra data"):  # what an SDK makes of a 404 in text
        create_sync(retries=0)
    create_sync()
    assert server.api_calls == [V2, V1, V2]


def test_a_json_404_is_an_answer(server: Recorder) -> None:
    server.special[CONNECT_V2] = [NO_SANDBOX]
    with pytest.raises(e2b.NotFoundException):
        connect_sync()
    assert server.api_calls == [CONNECT_V2]


@pytest.mark.parametrize("status", [400, 401, 403, 409, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("create", [create_sync, create_async])
def test_no_other_answer_leads_to_a_second_create(status: int, create: Callable[..., Any], server: Recorder) -> None:
    server.special[V2] = [refusal(status)]
    with pytest.raises(Exception, match=f"{status}: "):
        create(retries=0)
    assert server.api_calls == [V2]


TLS_HANDSHAKE = b"\x16"


def test_a_connection_that_breaks_leads_to_no_second_create() -> None:
    import socket
    import threading

    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def cut() -> None:
            while request := accept_one():
                accepted.append(request)

        def accept_one() -> bytes:
            connection, _ = listener.accept()
            with connection:
                return connection.recv(65536).partition(b" HTTP")[0]

        thread = threading.Thread(target=cut)
        thread.start()
        patch_e2b(False)
        with pytest.raises((OSError, httpx.HTTPError)):
            create_sync(domain=f"127.0.0.1:{listener.getsockname()[1]}", retries=0)
        socket.create_connection(listener.getsockname()).close()
        thread.join()
    # After the create, the patch looks whether the port wants https, for the text of the error.
    assert accepted[0] == b"POST /kruise/api/v2/sandboxes"
    assert [request[:1] for request in accepted[1:]] == [TLS_HANDSHAKE]


def test_errors_of_v1_are_the_sdks_own(server: Recorder) -> None:
    server.special[V1] = [Answer.json(400, {"code": 400, "message": "Template or Checkpoint not found"})]
    with pytest.raises(e2b.SandboxException, match="400: Template or Checkpoint not found"):
        create_sync()


def test_a_manager_that_loses_its_v2_routes_is_bridged_from_then_on(server: Recorder) -> None:
    server.special[V2] = [CREATED, CREATED, NO_METHOD]
    for _ in range(4):
        create_sync()
    assert server.api_calls == [V2, V2, V2, V1, V1]


def test_what_is_learned_of_one_manager_says_nothing_about_another(
    server: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_sync()
    with Recorder() as newer:
        create_sync(domain=newer.domain, api_key="e2b_22")
        assert newer.api_calls == [V2]


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mcp": {"github": {"token": "t"}}}, "mcp"),
        ({"network": {"allow_public_traffic": False}}, r"network\.allowPublicTraffic"),
    ],
)
def test_what_v1_would_ignore_is_refused(options: dict[str, Any], named: str, learned: bool, server: Recorder) -> None:
    if learned:
        create_sync()
    server.requests.clear()
    with pytest.raises(UnsupportedByManagerError, match=named):
        create_sync(**options)
    assert server.api_calls == ([] if learned else [V2])


MISREAD: dict[str, Callable[[Any], Any]] = {
    "sandbox metrics": lambda sandbox: sandbox.get_metrics(),
    "forking a sandbox": lambda sandbox: sandbox.fork(),
    "template tags": lambda _: e2b.Template.get_tags("name"),
}


@pytest.mark.parametrize("feature", MISREAD)
def test_a_call_that_v1_would_misread_is_refused_by_name(feature: str, server: Recorder) -> None:
    sandbox = create_sync()
    server.requests.clear()
    with pytest.raises(UnsupportedByManagerError, match=feature):
        MISREAD[feature](sandbox)
    assert server.api_calls == []


def test_an_unknown_manager_is_asked_before_such_a_call(server: Recorder) -> None:
    for _ in range(2):
        with pytest.raises(UnsupportedByManagerError, match="sandbox metrics"):
            e2b.Sandbox.get_metrics("sbx")
    assert server.api_calls == [V2]
    assert server.requests[0].body == b""


def test_an_unknown_manager_is_asked_by_the_async_client_too(server: Recorder) -> None:
    with pytest.raises(UnsupportedByManagerError, match="sandbox metrics"):
        asyncio.run(e2b.AsyncSandbox.get_metrics("sbx"))
    assert server.api_calls == [V2]


def test_a_newer_manager_gets_the_call(server: Recorder) -> None:
    server.special |= {
        V2: [Answer.json(400, {"code": 400, "message": "templateID is missing"}), CREATED],
        "GET /sandboxes/sbx/metrics": [Answer.json(200, [])],
    }
    assert e2b.Sandbox.get_metrics("sbx") == []
    assert server.api_calls[0] == V2
    assert server.api_calls[1].startswith("GET /sandboxes/sbx/metrics")
    server.requests.clear()
    create_sync().get_metrics()
    assert len([call for call in server.api_calls if call == V2]) == 1


def test_a_manager_that_cannot_be_asked_gets_no_such_call(server: Recorder) -> None:
    server.special[V2] = [refusal(503)]
    with pytest.raises(Exception, match="503: "):
        e2b.Sandbox.get_metrics("sbx", retries=0)
    assert server.api_calls == [V2]


def test_calls_that_v1_knows_are_passed_on(server: Recorder) -> None:
    sandbox = create_sync()
    server.requests.clear()
    sandbox.kill()
    assert server.api_calls == ["DELETE /sandboxes/sbx"]


@needs_e2b("2.60.0", "retries after 502")
@pytest.mark.parametrize("create", [create_sync, create_async])
def test_the_sdks_retries_of_one_create_carry_one_idempotency_key(create: Callable[..., Any], server: Recorder) -> None:
    server.special[V2] = [refusal(502), refusal(503), CREATED]
    create()
    create()
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("create", [create_sync, create_async])
def test_a_create_over_v1_is_sent_once_whatever_comes_back(
    status: int, create: Callable[..., Any], server: Recorder
) -> None:
    """An old manager knows no idempotency key, and may have made the sandbox before a proxy in front failed."""
    server.special[V1] = [refusal(status), CREATED]
    with pytest.raises(Exception, match=f"{status}: "):
        create()
    assert server.api_calls == [V2, V1]
    assert "transfer-encoding" not in server.requests[-1].headers
    create()
    assert server.api_calls == [V2, V1, V1]


@needs_e2b("2.61.0", "idempotency_key=")
def test_a_programs_own_idempotency_key_stays(server: Recorder) -> None:
    with pytest.warns(OlderManagerWarning, match="an idempotency key means nothing"):
        create_sync(idempotency_key="mine-1")
    assert [request.headers["idempotency-key"] for request in server.requests] == ["mine-1", "mine-1"]


def test_an_unpatched_sdk_is_not_bridged(server: Recorder) -> None:
    from kruise_agents.patch_e2b import unpatch_e2b

    unpatch_e2b()
    with pytest.raises(e2b.SandboxException, match="405"):
        create_sync(api_url=f"http://{server.domain}")
    assert server.api_calls == [V2]
