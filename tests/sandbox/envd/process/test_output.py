"""Output: complete, in order, in pieces that old clients can decode; and slow readers."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Sandbox
from hypothesis import given
from hypothesis import strategies as st

from kruise_agents.sandbox.connect.framing import Envelope, EnvelopeDecoder
from kruise_agents.sandbox.envd.process.output import incomplete_tail

pytestmark = pytest.mark.live


@given(st.text(max_size=20), st.integers(0, 80))
def test_text_that_is_cut_anywhere_is_put_together_again(text: str, cut: int) -> None:
    data = text.encode("utf-8", "replace")[:cut]
    kept = incomplete_tail(data)
    assert 0 <= kept <= 3
    data[: len(data) - kept].decode()


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (b"", 0),
        (b"a", 0),
        ("ä".encode(), 0),
        ("ä".encode()[:1], 1),
        ("€".encode()[:2], 2),
        ("😀".encode()[:3], 3),
        (b"a\xff", 0),
        (b"\x80\x80\x80\x80", 0),
        (b"\xc3\xa4\xa4", 0),
    ],
)
def test_only_beginnings_of_characters_are_kept_back(data: bytes, kept: int) -> None:
    assert incomplete_tail(data) == kept


@contextlib.contextmanager
def started(port: int, process: dict[str, Any], receive_buffer: int) -> Iterator[socket.socket]:
    """Start a process over a connection, and yield the connection before anything is read from it."""
    body = Envelope(0, json.dumps({"process": process, "stdin": False}).encode()).encode()
    head = (
        "POST /process.Process/Start HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Content-Type: application/connect+json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect(("127.0.0.1", port))
        connection.sendall(head.encode() + body)
        yield connection


def test_every_piece_can_be_decoded_alone(served_envd: Any, sandbox: Sandbox) -> None:
    (served_envd.home / "text").write_text("aä€😀" * 40_000)
    pieces: list[str] = []
    sandbox.commands.run("cat text", on_stdout=pieces.append)
    assert "".join(pieces) == "aä€😀" * 40_000
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_whose_rest_never_comes_is_not_kept_for_ever(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run(r"printf '\xe2\x82'; read; printf '\xac'", background=True, stdin=True)
    sandbox.commands.send_stdin(handle.pid, "\n")
    assert handle.wait().stdout in ("€", "\ufffd\ufffd")


def test_bytes_that_are_no_text_arrive(served_envd: Any, sandbox: Sandbox) -> None:
    assert sandbox.commands.run(r"printf 'a\xff\xfeb\xe2\x82'").stdout == "a\ufffd\ufffdb\ufffd"


def test_events_are_no_longer_than_32_kib(served_envd: Any) -> None:
    process = {"cmd": "head", "args": ["-c", "1000000", "/dev/urandom"]}
    body = Envelope(0, json.dumps({"process": process}).encode()).encode()
    reply = httpx.post(
        f"{served_envd.url}/process.Process/Start",
        content=body,
        headers={"content-type": "application/connect+json"},
    )
    events = [json.loads(frame.payload).get("event", {}) for frame in EnvelopeDecoder().feed(reply.content)]
    sizes = [len(base64.b64decode(event["data"]["stdout"])) for event in events if "data" in event]
    assert sum(sizes) == 1_000_000
    assert max(sizes) <= 32768


def test_64_megabytes_arrive_whole(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("head -c 67108864 /dev/zero | tr '\\0' x; echo end >&2", timeout=120)
    assert len(result.stdout) == 67108864
    assert result.stdout.count("x") == 67108864
    assert result.stderr == "end\n"


def test_short_commands_lose_nothing(sandbox: Sandbox) -> None:
    for number in range(50):
        result = sandbox.commands.run(f"printf {number}; printf {number} >&2")
        assert (result.stdout, result.stderr) == (str(number), str(number))


def test_a_slow_reader_slows_the_process_and_still_gets_everything(
    served_envd: Any, sandbox: Sandbox, wait_until: Callable[..., None]
) -> None:
    size = 40_000_000
    script = f"head -c {size} /dev/zero; echo done > done"
    received = bytearray()
    with started(served_envd.port, {"cmd": "bash", "args": ["-c", script]}, 4096) as connection:
        wait_until(lambda: len(sandbox.commands.list()) == 1)
        [process] = sandbox.commands.list()
        wait_until(lambda: is_asleep_writing(process.pid))
        assert not (served_envd.home / "done").exists()
        while chunk := connection.recv(1 << 20):
            received += chunk
    payload = unchunked(bytes(received).split(b"\r\n\r\n", 1)[1])
    events = [json.loads(frame.payload).get("event", {}) for frame in EnvelopeDecoder().feed(payload)]
    total = sum(len(base64.b64decode(event["data"]["stdout"])) for event in events if "data" in event)
    assert total == size
    assert (served_envd.home / "done").exists()


def unchunked(body: bytes) -> bytes:
    parts = []
    position = 0
    while size := int(body[position : (end := body.index(b"\r\n", position))], 16):
        parts.append(body[end + 2 : end + 2 + size])
        position = end + 2 + size + 2
    return b"".join(parts)


def is_asleep_writing(pid: int) -> bool:
    """Return True if the child of a shell waits for room in its pipe."""
    try:
        child = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
        return "pipe" in Path(f"/proc/{child}/wchan").read_text()
    except (OSError, IndexError):
        return False


def test_a_slow_reader_that_goes_lets_the_process_run_on(served_envd: Any, wait_until: Callable[..., None]) -> None:
    script = "head -c 40000000 /dev/zero; echo done > done"
    with started(served_envd.port, {"cmd": "bash", "args": ["-c", script]}, 4096) as connection:
        connection.recv(10)
    wait_until(lambda: (served_envd.home / "done").exists())


def test_output_without_a_reader_is_dropped(sandbox: Sandbox, served_envd: Any, wait_until: Any) -> None:
    handle = sandbox.commands.run("head -c 10000000 /dev/zero; echo done > done", background=True)
    handle.disconnect()
    wait_until(lambda: (served_envd.home / "done").exists())
