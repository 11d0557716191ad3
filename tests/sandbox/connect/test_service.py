"""A service on a real server, called by the reference client and by clients that break the rules."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from connectrpc.code import Code as ReferenceCode
from connectrpc.errors import ConnectError as ReferenceError
from e2b import ConnectionConfig
from e2b.envd.client_sync import create_rpc_client
from e2b.envd.process import process_connect, process_pb
from protobuf import Oneof
from starlette.applications import Starlette
from starlette.routing import Mount

from kruise_agents.sandbox.connect import (
    Call,
    ClientStream,
    Code,
    ConnectError,
    ConnectService,
    Json,
    Message,
    ServerStream,
    Unary,
)
from kruise_agents.sandbox.connect.framing import Envelope, EnvelopeDecoder

STREAM = {"content-type": "application/connect+json"}
EMPTY = Envelope(0, b"{}").encode()


class Toy:
    """Handlers under the names of ``process.Process``, so that the generated client can call them."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.failure: Exception = ConnectError(Code.NOT_FOUND, "no such thing")

    def app(self) -> Starlette:
        service = ConnectService(
            {
                "List": Unary(self.list),
                "Update": Unary(self.fail),
                "SendSignal": Unary(self.sleep),
                "Start": ServerStream(self.count),
                "Connect": ServerStream(self.wait),
                "StreamInput": ClientStream(self.collect),
            },
            check=self.check,
        )
        return Starlette(routes=[Mount("/process.Process", service)])

    def check(self, call: Call) -> None:
        if "x-refuse" in call.headers:
            raise ConnectError(Code.UNAUTHENTICATED, "refused")

    async def list(self, _request: Message, _call: Call) -> Json:
        return {"processes": [{"pid": 7, "config": {"cmd": "ünïcode"}}]}

    async def fail(self, _request: Message, _call: Call) -> Json:
        raise self.failure

    async def sleep(self, _request: Message, _call: Call) -> Json:
        await asyncio.sleep(60)
        return {}

    async def count(self, request: Message, _call: Call) -> AsyncGenerator[Json, None]:
        for pid in range(1, 4):
            yield {"event": {"start": {"pid": pid}}}
        if request.text("tag") == "fail":
            raise self.failure

    async def wait(self, _request: Message, _call: Call) -> AsyncGenerator[Json, None]:
        try:
            yield {"event": {"start": {"pid": 1}}}
            await asyncio.sleep(60)
        finally:
            self.closed.set()

    async def collect(self, requests: AsyncIterator[Message], _call: Call) -> Json:
        self.collected = [request async for request in requests]
        return {}


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def server(toy: Toy, serve_app: Callable[[Any], Any]) -> Any:
    return serve_app(toy.app())


@pytest.fixture
def http(server: Any) -> Any:
    with httpx.Client(base_url=server.url + "/process.Process") as client:
        yield client


@pytest.fixture
def reference(server: Any) -> process_connect.ProcessClientSync:
    config = ConnectionConfig(sandbox_url=server.url, api_key="e2b_00")
    return create_rpc_client(process_connect.ProcessClientSync, server.url, config)


def frames(body: bytes) -> list[tuple[int, Any]]:
    decoder = EnvelopeDecoder()
    found = [(frame.flags, json.loads(frame.payload)) for frame in decoder.feed(body)]
    decoder.finish()
    return found


def test_the_reference_client_makes_unary_calls(reference: process_connect.ProcessClientSync) -> None:
    reply = reference.list(process_pb.ListRequest())
    assert [(process.pid, process.config and process.config.cmd) for process in reply.processes] == [(7, "ünïcode")]


def test_the_reference_client_reads_streams(reference: process_connect.ProcessClientSync) -> None:
    replies: list[Any] = list(reference.start(process_pb.StartRequest()))
    assert [reply.event.event.value.pid for reply in replies] == [1, 2, 3]


def test_the_reference_client_sends_streams(toy: Toy, reference: process_connect.ProcessClientSync) -> None:
    def requests() -> Any:
        one_of: Any = Oneof  # its names are literals to a type checker, which no checker infers here
        selector = process_pb.ProcessSelector(selector=one_of("pid", 7))
        start = process_pb.StreamInputRequest.StartEvent(process=selector)
        yield process_pb.StreamInputRequest(event=one_of("start", start))
        yield process_pb.StreamInputRequest(event=one_of("keepalive", process_pb.StreamInputRequest.KeepAlive()))

    reference.stream_input(requests())
    first: Any
    first, second = toy.collected
    assert first.object("start").object("process").uint32("pid") == 7
    assert second.has("keepalive")


@pytest.mark.parametrize("code", list(Code))
def test_the_reference_client_gets_every_code(
    code: Code, toy: Toy, reference: process_connect.ProcessClientSync
) -> None:
    toy.failure = ConnectError(code, "it went wrong")
    with pytest.raises(ReferenceError) as raised:
        reference.update(process_pb.UpdateRequest())
    assert (raised.value.code, raised.value.message) == (ReferenceCode(code.value), "it went wrong")
    stream = reference.start(process_pb.StartRequest(tag="fail"))
    with pytest.raises(ReferenceError) as raised:
        list(stream)
    assert (raised.value.code, raised.value.message) == (ReferenceCode(code.value), "it went wrong")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.CANCELED, 499),
        (Code.INVALID_ARGUMENT, 400),
        (Code.DEADLINE_EXCEEDED, 504),
        (Code.NOT_FOUND, 404),
        (Code.ALREADY_EXISTS, 409),
        (Code.RESOURCE_EXHAUSTED, 429),
        (Code.UNIMPLEMENTED, 501),
        (Code.INTERNAL, 500),
        (Code.UNAVAILABLE, 503),
        (Code.UNAUTHENTICATED, 401),
    ],
)
def test_a_unary_error_has_the_status_of_its_code(code: Code, status: int, toy: Toy, http: httpx.Client) -> None:
    toy.failure = ConnectError(code, "m")
    reply = http.post("/Update", json={})
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {"code": code.value, "message": "m"}


def test_an_unforeseen_failure_is_internal(toy: Toy, http: httpx.Client) -> None:
    toy.failure = RuntimeError("a bug")
    reply = http.post("/Update", json={})
    assert reply.json() == {"code": "internal", "message": "RuntimeError: a bug"}


def test_a_stream_has_exactly_its_content_type_and_an_end_frame(http: httpx.Client) -> None:
    reply = http.post("/Start", content=EMPTY, headers=STREAM)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/connect+json"
    assert frames(reply.content)[-1] == (2, {})
    assert len(frames(reply.content)) == 4


def test_an_error_after_messages_is_in_the_end_frame(http: httpx.Client) -> None:
    body = Envelope(0, b'{"tag":"fail"}').encode()
    reply = http.post("/Start", content=body, headers=STREAM)
    assert reply.status_code == 200
    assert frames(reply.content)[-1] == (2, {"error": {"code": "not_found", "message": "no such thing"}})


def test_the_answer_to_a_client_stream_is_envelopes(http: httpx.Client) -> None:
    reply = http.post("/StreamInput", content=EMPTY * 3, headers=STREAM)
    assert frames(reply.content) == [(0, {}), (2, {})]


def test_each_envelope_is_one_write(server: Any) -> None:
    """Each write becomes a chunk of HTTP."""
    body = http_exchange(server.port, "/process.Process/Start", EMPTY)
    chunks = body.split(b"\r\n\r\n", 1)[1].split(b"\r\n")
    assert [chunk[:5] for chunk in chunks[1:8:2]] == [
        b"\0\0\0\0\x1d",
        b"\0\0\0\0\x1d",
        b"\0\0\0\0\x1d",
        b"\x02\0\0\0\x02",
    ]


def http_exchange(port: int, path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Type: application/connect+json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_an_unknown_method_is_404_and_unimplemented(http: httpx.Client) -> None:
    reply = http.post("/Nothing", json={})
    assert reply.status_code == 404
    assert reply.json()["code"] == "unimplemented"


def test_only_post_is_allowed(http: httpx.Client) -> None:
    reply = http.get("/List")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("path", "content_type", "accepted"),
    [
        ("/List", "application/proto", "application/json"),
        ("/List", "application/connect+json", "application/json"),
        ("/List", "application/json; charset=latin-1", "application/json"),
        ("/List", "", "application/json"),
        ("/Start", "application/connect+proto", "application/connect+json"),
        ("/Start", "application/json", "application/connect+json"),
    ],
)
def test_other_codecs_are_415(path: str, content_type: str, accepted: str, http: httpx.Client) -> None:
    reply = http.post(path, content=b"{}", headers={"content-type": content_type})
    assert (reply.status_code, reply.headers["accept-post"]) == (415, accepted)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", 'application/json; charset="UTF-8"'])
def test_utf_8_may_be_named(content_type: str, http: httpx.Client) -> None:
    assert http.post("/List", content=b"{}", headers={"content-type": content_type}).status_code == 200


def test_malformed_json_is_invalid(http: httpx.Client) -> None:
    unary = http.post("/List", content=b"{", headers={"content-type": "application/json"})
    assert (unary.status_code, unary.json()["code"]) == (400, "invalid_argument")
    stream = http.post("/Start", content=Envelope(0, b"{").encode(), headers=STREAM)
    assert frames(stream.content)[0][1]["error"]["code"] == "invalid_argument"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "unimplemented"),
        (EMPTY * 2, "unimplemented"),
        (EMPTY[:3], "invalid_argument"),
        (EMPTY[:-1], "invalid_argument"),
        (b"\0\xff\xff\xff\xff{}", "invalid_argument"),
        (EMPTY + b"\0", "invalid_argument"),
        (b"\x01" + EMPTY[1:], "internal"),
        (b"\x02" + EMPTY[1:], "invalid_argument"),
    ],
)
def test_broken_frames_are_refused_in_an_end_frame(body: bytes, code: str, http: httpx.Client) -> None:
    reply = http.post("/Start", content=body, headers=STREAM)
    assert reply.status_code == 200
    [(flags, end)] = frames(reply.content)
    assert (flags, end["error"]["code"]) == (2, code)


def test_compression_is_refused_clearly(http: httpx.Client) -> None:
    unary = http.post("/List", json={}, headers={"content-encoding": "gzip"})
    assert (unary.status_code, unary.json()["code"]) == (501, "unimplemented")
    assert "supported encodings are identity" in unary.json()["message"]
    stream = http.post("/Start", content=EMPTY, headers=STREAM | {"connect-content-encoding": "gzip"})
    assert frames(stream.content)[0][1]["error"]["code"] == "unimplemented"


def test_another_protocol_version_is_refused(http: httpx.Client) -> None:
    reply = http.post("/List", json={}, headers={"connect-protocol-version": "2"})
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_argument")


def test_a_refused_call_never_reaches_its_handler(http: httpx.Client) -> None:
    unary = http.post("/List", json={}, headers={"x-refuse": "1"})
    assert (unary.status_code, unary.json()["code"]) == (401, "unauthenticated")
    stream = http.post("/Start", content=EMPTY, headers=STREAM | {"x-refuse": "1"})
    assert (stream.status_code, frames(stream.content)[0][1]["error"]["code"]) == (200, "unauthenticated")


def test_a_deadline_ends_the_call(toy: Toy, http: httpx.Client) -> None:
    unary = http.post("/SendSignal", json={}, headers={"connect-timeout-ms": "30"})
    assert (unary.status_code, unary.json()["code"]) == (504, "deadline_exceeded")
    stream = http.post("/Connect", content=EMPTY, headers=STREAM | {"connect-timeout-ms": "30.5"})
    assert frames(stream.content)[-1][1]["error"] == {
        "code": "deadline_exceeded",
        "message": "context deadline exceeded",
    }
    assert toy.closed.is_set()


def test_a_wrong_deadline_is_refused(http: httpx.Client) -> None:
    reply = http.post("/List", json={}, headers={"connect-timeout-ms": "soon"})
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_argument")


def test_a_client_that_goes_closes_the_generator(toy: Toy, http: httpx.Client) -> None:
    with http.stream("POST", "/Connect", content=EMPTY, headers=STREAM) as reply:
        next(reply.iter_raw())
    assert toy.closed.wait(10)
