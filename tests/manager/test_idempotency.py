"""A create that arrives again with its key makes no second sandbox; either spelling of a key is the same credential."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from kruise_agents.keys import encode_key
from kruise_agents.manager.api.auth import RequireKey
from kruise_agents.manager.api.body import Fields
from kruise_agents.manager.api.errors import ApiError
from kruise_agents.manager.api.idempotency import KEPT_SECONDS, IdempotentCreates
from kruise_agents.manager.keys import Keys
from kruise_agents.manager.state_secret import StateSecret
from kruise_agents.manager.store import Store
from support.managers import RunningManager

BODY = {"templateID": "base", "timeout": 60}


@pytest.fixture
def key(api: httpx.Client) -> Iterator[str]:
    """A new key; the sandboxes made with it are ended after the test."""
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
        assert httpx.get(url, headers=headers).status_code == 401  # type: ignore[arg-type]


@pytest.mark.parametrize("configured", ["some-api-key", encode_key("some-api-key"), "e2b_abc123", "schlüssel"])
def test_a_manager_may_be_given_either_spelling_too(configured: str, tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Response("in")(scope, receive, send)

    raw = "some-api-key" if "6f6b6167" in configured else configured
    store = Store(tmp_path / "state.db")
    transport = httpx.ASGITransport(RequireKey(app, Keys([configured], store, StateSecret(b"x" * 32))))

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://m") as client:
            given = [raw.encode(), encode_key(raw).encode(), b"other", encode_key("other").encode()]
            return [(await client.get("/", headers={b"X-API-Key": key})).status_code for key in given]

    assert asyncio.run(statuses()) == [200, 200, 401, 401]
    store.close()


Create = Callable[[], Awaitable[Response]]
OWNER = "id of an API key"
HEADERS = Headers({"Idempotency-Key": "k", "X-API-Key": "a"})


def counting(*outcomes: Exception | None) -> tuple[Create, list[int]]:
    made: list[int] = []
    left = list(outcomes)

    async def make() -> Response:
        made.append(len(made))
        if left and (error := left.pop(0)) is not None:
            raise error
        return JSONResponse({"number": made[-1]}, status_code=201)

    return make, made


def test_a_create_that_crashed_is_never_repeated() -> None:
    make, made = counting(ZeroDivisionError())

    async def walk() -> None:
        creates = IdempotentCreates()
        with pytest.raises(ZeroDivisionError):
            await creates.answer(OWNER, HEADERS, Fields({}), make)
        for _ in range(2):
            with pytest.raises(ApiError, match="a sandbox may exist") as caught:
                await creates.answer(OWNER, HEADERS, Fields({}), make)
            assert (caught.value.status, caught.value.error_code) == (409, "idempotency_outcome_unknown")
            assert caught.value.headers == {"Should-Retry": "false"}

    asyncio.run(walk())
    assert made == [0]


def test_a_create_goes_on_when_its_client_leaves() -> None:
    async def walk() -> bytes:
        creates, ready = IdempotentCreates(), asyncio.Event()

        async def make() -> Response:
            await ready.wait()
            return Response(b"made", 201)

        first = asyncio.create_task(creates.answer(OWNER, HEADERS, Fields({}), make))
        await asyncio.sleep(0)
        first.cancel()
        second = asyncio.create_task(creates.answer(OWNER, HEADERS, Fields({}), make))
        await asyncio.sleep(0)
        ready.set()
        return bytes((await second).body)

    assert asyncio.run(walk()) == b"made"


def test_a_key_belongs_to_one_api_key() -> None:
    make, made = counting()

    async def walk() -> None:
        creates = IdempotentCreates()
        for owner in ("a", "a", "b"):
            await creates.answer(owner, HEADERS, Fields({}), make)

    asyncio.run(walk())
    assert made == [0, 1]


def test_a_create_is_remembered_for_ten_minutes() -> None:
    assert KEPT_SECONDS >= 600
    make, made = counting()
    now = [0.0]

    async def walk() -> None:
        creates = IdempotentCreates(clock=lambda: now[0])
        for now[0] in (0.0, KEPT_SECONDS - 1, KEPT_SECONDS + 1):
            await creates.answer(OWNER, HEADERS, Fields({}), make)

    asyncio.run(walk())
    assert made == [0, 1]
