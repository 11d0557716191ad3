"""Input: every way to write, and every way in which it cannot be written."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from e2b import CommandExitException, Sandbox

from kruise_agents.sandbox.connect.framing import Envelope

pytestmark = pytest.mark.live


def rpc(served: Any, method: str, **request: Any) -> httpx.Response:
    return httpx.post(f"{served.url}/process.Process/{method}", json=request, timeout=30)


def test_input_arrives(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.send_stdin(handle.pid, "ünï\n")
    sandbox.commands.send_stdin(handle.pid, "two")
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "ünï\ntwo"


def test_without_stdin_a_command_reads_nothing(sandbox: Sandbox, served_envd: Any) -> None:
    assert sandbox.commands.run("cat; echo end", stdin=False).stdout == "end\n"
    handle = sandbox.commands.run("sleep 60", background=True, stdin=False)
    reply = rpc(served_envd, "SendInput", process={"pid": handle.pid}, input={"stdin": "aGk="})
    assert reply.status_code == 500
    assert reply.json() == {
        "code": "internal",
        "message": "error writing to stdin: stdin not enabled or closed",
    }


def test_stdin_is_on_unless_switched_off(served_envd: Any, wait_until: Callable[..., None]) -> None:
    body = Envelope(0, json.dumps({"process": {"cmd": "cat"}}).encode()).encode()
    url = f"{served_envd.url}/process.Process/Start"
    headers = {"content-type": "application/connect+json"}
    with httpx.stream("POST", url, content=body, headers=headers) as stream:
        received = stream.iter_raw()
        first = next(received)
        [process] = rpc(served_envd, "List").json()["processes"]
        assert rpc(served_envd, "CloseStdin", process={"pid": process["pid"]}).status_code == 200
        assert b'"exitCode":0' in first + b"".join(received)


def test_closing_twice_is_fine_and_writing_then_is_not(sandbox: Sandbox, served_envd: Any) -> None:
    handle = sandbox.commands.run("cat; sleep 60", background=True, stdin=True)
    sandbox.commands.close_stdin(handle.pid)
    sandbox.commands.close_stdin(handle.pid)
    reply = rpc(served_envd, "SendInput", process={"pid": handle.pid}, input={"stdin": "aGk="})
    assert reply.json()["message"] == "error writing to stdin: stdin not enabled or closed"


def test_a_reader_that_is_gone_is_reported(sandbox: Sandbox, served_envd: Any) -> None:
    handle = sandbox.commands.run("exec 0<&-; echo closed; sleep 60", background=True, stdin=True)
    assert next(out for out, _, _ in handle) == "closed\n"
    reply = rpc(served_envd, "SendInput", process={"pid": handle.pid}, input={"stdin": "aGk="})
    assert reply.json() == {"code": "internal", "message": "error writing to stdin: broken pipe"}


def test_more_than_a_pipe_holds_is_written_before_the_answer(sandbox: Sandbox, served_envd: Any) -> None:
    handle = sandbox.commands.run("read; wc -c", background=True, stdin=True)
    big = base64.b64encode(b"x" * 3_000_000).decode()
    replies: list[httpx.Response] = []

    def write() -> None:
        replies.append(rpc(served_envd, "SendInput", process={"pid": handle.pid}, input={"stdin": big}))

    writer = threading.Thread(target=write)
    sandbox.commands.send_stdin(handle.pid, "\n")
    writer.start()
    writer.join()
    assert replies[0].status_code == 200
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout.strip() == "3000000"


def test_a_write_that_waits_fails_when_the_process_ends(sandbox: Sandbox, served_envd: Any) -> None:
    handle = sandbox.commands.run("sleep 60 & wait", background=True, stdin=True)
    big = base64.b64encode(b"x" * 1_000_000).decode()
    replies: list[httpx.Response] = []

    def write() -> None:
        replies.append(rpc(served_envd, "SendInput", process={"pid": handle.pid}, input={"stdin": big}))

    writer = threading.Thread(target=write)
    writer.start()
    sandbox.commands.kill(handle.pid)
    with pytest.raises(CommandExitException):
        handle.wait()
    writer.join(20)
    assert not writer.is_alive()
    assert replies[0].json()["code"] in ("internal", "not_found")


def test_input_may_be_streamed(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    lines = [f"{number}\n" for number in range(500)]
    sandbox.commands.stream_input(handle.pid, iter(lines))
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "".join(lines)


def test_silence_in_streamed_input_may_be_filled(sandbox: Sandbox, served_envd: Any) -> None:
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    data = [{"data": {"input": {"stdin": base64.b64encode(text).decode()}}} for text in (b"one ", b"two")]
    messages = [{"keepalive": {}}, {"start": {"process": {"pid": handle.pid}}}, {"keepalive": {}}, *data]
    body = b"".join(Envelope(0, json.dumps(message).encode()).encode() for message in [*messages, {"keepalive": {}}])
    headers = {"content-type": "application/connect+json"}
    reply = httpx.post(f"{served_envd.url}/process.Process/StreamInput", content=body, headers=headers)
    assert reply.content == Envelope(0, b"{}").encode() + Envelope(2, b"{}").encode()
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "one two"


def test_streamed_input_needs_its_process(served_envd: Any) -> None:
    def answer(*messages: dict[str, Any]) -> dict[str, Any]:
        body = b"".join(Envelope(0, json.dumps(message).encode()).encode() for message in messages)
        headers = {"content-type": "application/connect+json"}
        reply = httpx.post(f"{served_envd.url}/process.Process/StreamInput", content=body, headers=headers)
        return json.loads(reply.content[5:])["error"]

    assert answer({"data": {"input": {"stdin": "aGk="}}})["code"] == "invalid_argument"
    assert answer({"start": {"process": {"pid": 999999999}}})["code"] == "not_found"


@pytest.mark.parametrize("given", [{}, None])
def test_no_input_is_unimplemented(given: Any, sandbox: Sandbox, served_envd: Any) -> None:
    handle = sandbox.commands.run("sleep 60", background=True)
    reply = rpc(served_envd, "SendInput", process={"pid": handle.pid}, input=given)
    assert (reply.status_code, reply.json()["code"]) == (501, "unimplemented")


def test_input_for_a_terminal_that_is_not_there(sandbox: Sandbox, served_envd: Any) -> None:
    handle = sandbox.commands.run("sleep 60", background=True)
    reply = rpc(served_envd, "SendInput", process={"pid": handle.pid}, input={"pty": "aGk="})
    assert reply.json() == {
        "code": "internal",
        "message": "error writing to tty: tty not assigned to process"
        " — input should be written to the stdin, not the tty",
    }
    reply = rpc(served_envd, "Update", process={"pid": handle.pid}, pty={"size": {"cols": 1, "rows": 1}})
    assert reply.json() == {"code": "internal", "message": "error resizing tty: tty not assigned to process"}
