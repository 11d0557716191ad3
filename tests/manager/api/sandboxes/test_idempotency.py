"""A create that arrives again with its key makes no second sandbox; either spelling of a key is the same credential."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from kruise_agents.keys import encode_key
from kruise_agents.manager.accounts.keys import Keys
from kruise_agents.manager.api.auth import RequireCredentials
from kruise_agents.manager.api.errors import ApiError
from kruise_agents.manager.api.sandboxes.idempotency import KEPT_SECONDS, IdempotentCreates, OnIdAssigned
from kruise_agents.manager.state.database import Database
from kruise_agents.manager.state.reserve import NoSpaceError
from kruise_agents.manager.state.secret import StateSecret
from support.managers import RunningManager, running_manager, wait_for

BODY = {"templateID": "base", "timeout": 60}


@pytest.fixture
def key(api: httpx.Client) -> Iterator[str]:
    """A new key. Sandboxes that are created with the key are ended after the test."""
    key = str(uuid.uuid4())
    yield key
    for sandbox in api.get("/v2/sandboxes", params={"metadata": f"test={key}"}).json():
        api.delete(f"/sandboxes/{sandbox['sandboxID']}")


def create(api: httpx.Client, key: str, path: str = "/v2/sandboxes", **body: Any) -> httpx.Response:
    return api.post(path, json={**BODY, "metadata": {"test": key}, **body}, headers={"Idempotency-Key": key})


def test_a_repeated_create_gets_the_first_answer(api: httpx.Client, key: str) -> None:
    first, second, older = create(api, key), create(api, key), create(api, key, "/sandboxes")
    assert [answer.status_code for answer in (first, second, older)] == [201, 201, 201]
    assert first.json() == second.json() == older.json()
    assert len(api.get("/v2/sandboxes", params={"metadata": f"test={key}"}).json()) == 1


def test_creates_that_arrive_together_make_one_sandbox(api: httpx.Client, key: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: create(api, key), range(4)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["sandboxID"] for answer in answers}) == 1


def test_another_body_with_the_same_key_is_refused(api: httpx.Client, key: str) -> None:
    create(api, key)
    answer = create(api, key, timeout=61)
    assert answer.status_code == 422
    assert answer.json()["error_code"] == "idempotency_request_mismatch"
    assert answer.headers["Should-Retry"] == "false"


def test_a_refused_create_may_be_tried_again_with_its_key(api: httpx.Client, key: str) -> None:
    assert create(api, key, templateID="nowhere").status_code == 404
    assert create(api, key).status_code == 201


@pytest.mark.parametrize("wrong", ["", "UPPER", "a b", "a" * 256])
def test_a_key_that_cannot_be_one_is_refused(wrong: str, api: httpx.Client) -> None:
    answer = api.post("/v2/sandboxes", json=BODY, headers={"Idempotency-Key": wrong})
    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json()["message"]


def test_either_spelling_of_an_api_key_is_accepted(manager: RunningManager) -> None:
    url = f"{manager.api_url}/v2/sandboxes"
    for key in (manager.api_key, encode_key(manager.api_key)):
        assert httpx.get(url, headers={"X-API-Key": key}).status_code == 200
    for key in (encode_key("another"), encode_key(""), encode_key(encode_key(manager.api_key)), "", "é"):
        headers = {"X-API-Key": key.encode("latin-1")}
        assert httpx.get(url, headers=headers).status_code == 401  # type: ignore[arg-type]  # httpx takes bytes as values


@pytest.mark.parametrize("configured", ["some-api-key", encode_key("some-api-key"), "e2b_abc123", "schlüssel"])
def test_a_manager_may_be_given_either_spelling_too(configured: str, tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Response("in")(scope, receive, send)

    raw = "some-api-key" if "6f6b6167" in configured else configured
    store = Database(tmp_path / "state.db")
    keys = Keys([configured], store, StateSecret(b"x" * 32))
    volumes: Any = None  # no route asks for one
    transport = httpx.ASGITransport(RequireCredentials(app, keys, volumes, routes=[]))

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://m") as client:
            given = [raw.encode(), encode_key(raw).encode(), b"other", encode_key("other").encode()]
            return [(await client.get("/", headers={b"X-API-Key": key})).status_code for key in given]

    assert asyncio.run(statuses()) == [200, 200, 401, 401]
    store.close()


Create = Callable[[OnIdAssigned], Awaitable[Response]]
OWNER = "id of an API key"
KEY = "k"
SECRET = StateSecret(b"x" * 32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "state.db")
    yield opened
    opened.close()


def gone(sandbox_id: str) -> Response | None:
    return None


def counting(*outcomes: Exception | None) -> tuple[Create, list[int]]:
    made: list[int] = []
    left = list(outcomes)

    async def make(on_id_assigned: OnIdAssigned) -> Response:
        made.append(len(made))
        if left and (error := left.pop(0)) is not None:
            raise error
        return JSONResponse({"number": made[-1]}, status_code=201)

    return make, made


def test_a_create_that_crashed_is_never_repeated(store: Database) -> None:
    make, made = counting(ZeroDivisionError())

    async def walk() -> None:
        creates = IdempotentCreates(store, SECRET)
        with pytest.raises(ZeroDivisionError):
            await creates.answer(OWNER, KEY, {}, make, gone)
        for _ in range(2):
            with pytest.raises(ApiError, match="a sandbox may exist") as caught:
                await creates.answer(OWNER, KEY, {}, make, gone)
            assert (caught.value.status, caught.value.error_code) == (409, "idempotency_outcome_unknown")
            assert caught.value.headers == {"Should-Retry": "false"}

    asyncio.run(walk())
    assert made == [0]


def test_a_create_goes_on_when_its_client_leaves(store: Database) -> None:
    async def walk() -> bytes:
        creates, ready = IdempotentCreates(store, SECRET), asyncio.Event()

        async def make(on_id_assigned: OnIdAssigned) -> Response:
            await ready.wait()
            return Response(b"made", 201)

        first = asyncio.create_task(creates.answer(OWNER, KEY, {}, make, gone))
        await asyncio.sleep(0)
        first.cancel()
        second = asyncio.create_task(creates.answer(OWNER, KEY, {}, make, gone))
        await asyncio.sleep(0)
        ready.set()
        return bytes((await second).body)

    assert asyncio.run(walk()) == b"made"


def test_a_key_belongs_to_one_api_key(store: Database) -> None:
    make, made = counting()

    async def walk() -> None:
        creates = IdempotentCreates(store, SECRET)
        for owner in ("a", "a", "b"):
            await creates.answer(owner, KEY, {}, make, gone)

    asyncio.run(walk())
    assert made == [0, 1]


def test_a_create_is_remembered_for_ten_minutes(store: Database) -> None:
    assert KEPT_SECONDS >= 600
    make, made = counting()
    now = [0.0]

    async def walk() -> None:
        creates = IdempotentCreates(store, SECRET, clock=lambda: now[0])
        for now[0] in (0.0, KEPT_SECONDS - 1, KEPT_SECONDS + 1):
            await creates.answer(OWNER, KEY, {}, make, gone)

    asyncio.run(walk())
    assert made == [0, 1]


def test_what_was_made_is_known_to_the_next_manager_for_ten_minutes_and_the_oldest_are_forgotten(
    store: Database,
) -> None:
    now = [0.0]
    made: list[str] = []

    async def make(on_id_assigned: OnIdAssigned) -> Response:
        made.append(f"i{len(made)}")
        on_id_assigned(made[-1])
        return Response(made[-1].encode(), 201)

    async def ask(key: str, owner: str = OWNER) -> bytes:
        creates = IdempotentCreates(store, SECRET, clock=lambda: now[0], most=3)
        return bytes((await creates.answer(owner, key, {}, make, lambda one: Response(one, 201))).body)

    async def walk() -> None:
        assert await ask("a") == await ask("a") == b"i0"
        assert await ask("a", "another owner") == b"i1"
        now[0] = KEPT_SECONDS + 1
        assert await ask("a") == b"i2"
        for key in ("b", "c", "d"):
            now[0] += 1
            await ask(key)
        assert await ask("d") == b"i5"
        assert await ask("a") == b"i6"

    asyncio.run(walk())


def test_a_create_for_which_the_disk_was_full_may_be_tried_again(store: Database) -> None:
    make, made = counting(NoSpaceError("full"))

    async def walk() -> None:
        creates = IdempotentCreates(store, SECRET)
        with pytest.raises(NoSpaceError):
            await creates.answer(OWNER, KEY, {}, make, gone)
        await creates.answer(OWNER, KEY, {}, make, gone)

    asyncio.run(walk())
    assert made == [0, 1]


@pytest.mark.live
def test_a_create_repeated_after_the_manager_was_killed_gets_the_same_sandbox(tmp_path: Path) -> None:
    protect: dict[str, Any] = {"metadata": {"security.agents.kruise.io/enable-jwt-auth": "true"}}
    with running_manager(tmp_path) as manager, manager.api() as api:
        first = create(api, "key-of-the-test", **protect).json()
        ended = create(api, "ended").json()
        kill(manager)
    for path in (tmp_path / "state").glob("state.db*"):
        assert b"key-of-the-test" not in path.read_bytes()
    with running_manager(tmp_path) as manager, manager.api() as api:
        api.delete(f"/sandboxes/{ended['sandboxID']}").raise_for_status()
        again = create(api, "key-of-the-test", **protect)
        assert again.status_code == 201
        for name in ("sandboxID", "envdAccessToken", "templateID"):
            assert again.json()[name] == first[name]
        assert "trafficAccessToken" in again.json()
        assert [one["sandboxID"] for one in api.get("/v2/sandboxes").json()] == [first["sandboxID"]]
        other = create(api, "key-of-the-test", timeout=61, **protect)
        assert (other.status_code, other.json()["error_code"]) == (422, "idempotency_request_mismatch")
        over = create(api, "ended")
        assert (over.status_code, over.json()["error_code"]) == (409, "idempotency_sandbox_gone")
        assert over.headers["Should-Retry"] == "false"


@pytest.mark.live
@pytest.mark.parametrize("round_", range(3))
def test_a_manager_killed_in_the_middle_of_a_create_leaves_one_sandbox_to_its_repetition(
    round_: int, tmp_path: Path
) -> None:
    made = None
    with running_manager(tmp_path) as manager, manager.api() as api, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(create, api, "key-of-the-test")
        folder = manager.state_dir / "sandboxes"
        wait_for(lambda: list(folder.iterdir()) or answer.done(), 30, "the create has begun")
        if round_:  # somewhere on the way
            with contextlib.suppress(TimeoutError):
                answer.result(random.random() * 1.5)
        kill(manager)
        with contextlib.suppress(httpx.TransportError):
            made = answer.result().json()["sandboxID"]
    with running_manager(tmp_path) as manager, manager.api() as api:
        again = create(api, "key-of-the-test")
        assert again.status_code == 201
        assert [one["sandboxID"] for one in api.get("/v2/sandboxes").json()] == [again.json()["sandboxID"]]
        assert made in (None, again.json()["sandboxID"])


def kill(manager: RunningManager) -> None:
    manager.process.kill()
    manager.process.wait()
