"""Calls of the API: what reaches the manager, and what clients are told."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.errors import ConfigurationError
from kruise_agents.proxy.api import with_domain
from kruise_agents.proxy.upstream import Origin
from support.upstreams import Arrival, get, proxied, run

from .conftest import Ages

TEMPLATE = "code-interpreter"


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        ('{"sandboxID": "a", "domain": "d.example"}', {"sandboxID": "a", "domain": "own:1"}),
        ('{"domain": null}', {"domain": "own:1"}),
        ('[{"domain": "x"}, {"a": 1}]', [{"domain": "own:1"}, {"a": 1}]),
        ('{"metadata": {"domain": "x"}}', {"metadata": {"domain": "x"}}),
        ('"domain"', "domain"),
    ],
)
def test_answers_name_the_domain_of_the_client(body: str, changed: object) -> None:
    assert json.loads(with_domain(body.encode(), "own:1")) == changed


def test_what_needs_no_change_stays_as_it_is() -> None:
    for body in (b'{ "domain":"own:1" }', b"no JSON", b'{ "a": [1,2] }', b"[" * 100_000):
        assert with_domain(body, "own:1") == body


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://your.domain", "https://your.domain"),
        ("your.domain:8443", "https://your.domain:8443"),
        (" HTTP://LocalHost:7788/ ", "http://localhost:7788"),
        ("http://[::1]:7788", "http://[::1]:7788"),
        ("https://your.domain/kruise/api", "https://your.domain"),
    ],
)
def test_forms_of_the_upstream(text: str, origin: str) -> None:
    assert str(Origin.parse(text)) == origin


@pytest.mark.parametrize("text", ["ftp://d.example", "https://d.example/x", "", "https://", "http://a b", "e2b://x"])
def test_what_is_no_upstream(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--upstream"):
        Origin.parse(text)


def answer(status: str, body: object, *headers: str) -> bytes:
    text = json.dumps(body)
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(text)}", *headers]
    return "\r\n".join([*lines, "", text]).encode()


def post(path: str, body: bytes, *lines: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", "Content-Type: application/json"]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", *lines, "", ""]).encode() + body


def parsed(answer: bytes) -> tuple[int, dict[str, object]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_a_create_has_an_idempotency_key() -> None:
    async def create(arrival: Arrival) -> None:
        await arrival.reader.readexactly(int(arrival.headers["content-length"]))
        await arrival.send(answer("201 Created", {"sandboxID": "a", "domain": "d.example"}))

    async def scenario() -> None:
        async with proxied(create) as pair:
            for own in ([], ["Idempotency-Key: mine"]):
                status, body = parsed(await pair.ask(post("/v2/sandboxes", b'{"templateID": "base"}', *own)))
                assert (status, body["domain"]) == (201, "localhost")
            first, second = (arrival.headers for arrival in pair.arrivals)
            assert len(first["idempotency-key"]) > 20
            assert second["idempotency-key"] == "mine"
            assert "gzip" not in first.get("accept-encoding", "")

    run(scenario())


def test_files_in_volumes_stay_as_they_are() -> None:
    async def file(arrival: Arrival) -> None:
        await arrival.send(answer("200 OK", {"domain": "of the file"}))

    async def scenario() -> None:
        async with proxied(file) as pair:
            for path in ("/volumecontent/v/file?path=a.json", "/kruise/api/volumecontent/v/file?path=a.json"):
                _, body = parsed(await pair.ask(get(path, "localhost")))
                assert body == {"domain": "of the file"}

    run(scenario())


def test_a_call_that_is_too_long_is_refused() -> None:
    async def scenario() -> None:
        async with proxied() as pair:
            status, body = parsed(await pair.ask(post("/sandboxes", b" " * (1024 * 1024 + 1))))
            assert status == 413
            assert "1048576" in str(body["message"])
            assert pair.arrivals == []

    run(scenario())


def test_a_manager_that_is_not_there() -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        async with proxied(upstream=Origin.parse(f"http://127.0.0.1:{port}")) as pair:
            for path in ("/sandboxes", "/kruise/a/3000/"):
                status, body = parsed(await pair.ask(get(path, "localhost")))
                assert status == 503
                where = f"cannot connect to the sandbox-manager at http://127.0.0.1:{port}"
                assert f"{where}: nobody listens there" in str(body["message"])

    run(scenario())


def test_a_manager_that_does_not_answer() -> None:
    async def leave(arrival: Arrival) -> None:
        arrival.writer.close()

    async def scenario() -> None:
        async with proxied(leave) as pair:
            status, body = parsed(await pair.ask(get("/teams", "localhost")))
            assert status == 502
            assert "did not answer: the connection was closed" in str(body["message"])
            status, body = parsed(await pair.ask(get("/kruise/a/3000/", "localhost")))
            assert status == 503
            assert "did not answer properly: the connection was closed" in str(body["message"])

    run(scenario())


@pytest.mark.live
def test_what_an_old_manager_would_misread_is_refused(ages: Ages, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ages.proxies["old"].environment(ages.managers["old"].api_key).items():
        monkeypatch.setenv(name, value)
    with Sandbox.create(TEMPLATE, timeout=60) as sandbox:
        for call in (sandbox.get_metrics, sandbox.fork):
            with pytest.raises(Exception, match=r"400: .* needs? a newer manager"):
                call()
        assert Sandbox.list(order="desc").next_items()[0].sandbox_id == sandbox.sandbox_id
        sandbox.pause()
    assert "a pause ends the pod of a sandbox" in ages.proxies["old"].log.read_text()


@pytest.mark.live
@pytest.mark.parametrize("age", ["new", "old"])
def test_both_ages_take_either_kind_of_create(age: str, ages: Ages) -> None:
    headers = {"X-API-Key": ages.managers[age].api_key}
    with httpx.Client(base_url=ages.proxies[age].url, headers=headers, timeout=60) as api:
        for path in ("/sandboxes", "/v2/sandboxes", "/kruise/api/v2/sandboxes"):
            made = api.post(path, json={"templateID": TEMPLATE, "timeout": 60})
            assert made.status_code == 201, made.text
            assert made.json()["domain"] == ages.proxies[age].domain
            assert api.delete(f"/sandboxes/{made.json()['sandboxID']}").status_code == 204


@pytest.mark.parametrize("path", ["/v2", "/kruise/api/v2", "//"])
def test_paths_of_no_resource(path: str) -> None:
    async def scenario() -> None:
        async def handler(arrival: Arrival) -> None:
            await arrival.send(answer("200 OK", {"domain": "d.example"}))

        async with proxied(handler) as pair:
            reply = await pair.ask(get(path, "localhost"))
            assert reply.startswith(b"HTTP/1.1 200 "), reply
            assert reply.endswith(b'{"domain": "d.example"}')

    run(scenario())


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("HTTP/1.1 600 x", b"its status is 600"),
        ("HTTP/1.1 200 OK\r\nX-A: a\x01", b"its header x-a has a control character"),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip", b"has compressed its answer"),
        ("HTTP/1.1 404 x\r\nContent-Encoding: gzip", b"has compressed its answer"),
    ],
)
def test_answers_that_no_manager_gives(head: str, reason: bytes) -> None:
    async def scenario() -> None:
        async def handler(arrival: Arrival) -> None:
            await arrival.send(f"{head}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode())

        async with proxied(handler) as pair:
            reply = await pair.ask(get("/sandboxes/a", "localhost"))
            assert reply.startswith(b"HTTP/1.1 502 "), reply
            assert reason in reply

    run(scenario())


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_an_endless_answer_is_not_read_whole(status: str) -> None:
    async def scenario() -> None:
        closed = asyncio.Event()

        async def handler(arrival: Arrival) -> None:
            try:
                await arrival.send(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\r\n".encode())
                while True:
                    await arrival.send(b" " * 65536)
            finally:
                closed.set()

        async with proxied(handler) as pair:
            reply = await pair.ask(get("/sandboxes/a", "localhost"))
            assert reply.startswith(b"HTTP/1.1 502 "), reply
            assert b"has more than 16777216 bytes" in reply
            await closed.wait()

    run(scenario())


def test_the_connection_to_the_manager_is_cut_when_the_client_leaves_an_answer_that_is_read_whole() -> None:
    async def scenario() -> None:
        begun, closed = asyncio.Event(), asyncio.Event()

        async def handler(arrival: Arrival) -> None:
            await arrival.send(b"HTTP/1.1 404 x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
            begun.set()
            assert await arrival.reader.read() == b""
            closed.set()

        async with proxied(handler) as pair:
            _, writer = await asyncio.open_connection("127.0.0.1", pair.proxy.port)
            writer.write(get("/sandboxes/a", "localhost"))
            await begun.wait()
            writer.close()
            await closed.wait()

    run(scenario())
