"""Endurance: output and files of any size in flat memory, many commands, many listeners, and time limits."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import resource
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import NotFoundException, Sandbox, TimeoutException

from kruise_agents.sandbox.connect.framing import MESSAGE, Envelope, EnvelopeDecoder
from support.managers import RunningManager, running_manager

pytestmark = pytest.mark.live
MIB = 1 << 20
# Room for whatever an allocator keeps; a tenth of what passes through would be above it.
FLAT_KILOBYTES = 20 * 1024


class Peaks:
    """The highest memory so far of the manager and of a sandbox's envd, in kilobytes."""

    def __init__(self, manager: RunningManager, sandbox: Sandbox) -> None:
        self._manager = manager
        self._sandbox = sandbox
        self._before = self._now()

    def grown(self) -> int:
        """Return the growth of the process that grew most."""
        return max(now - before for now, before in zip(self._now(), self._before, strict=True))

    def _now(self) -> list[int]:
        # A command's parent is envd.
        inside = self._sandbox.commands.run("cat /proc/$PPID/status", user="root").stdout
        outside = Path(f"/proc/{self._manager.process.pid}/status").read_text()
        return [int(status.partition("VmHWM:")[2].split()[0]) for status in (outside, inside)]


def stream(url: str, request: dict[str, Any], headers: dict[str, str]) -> Generator[dict[str, Any], None, None]:
    """Yield the events of a stream, and keep no event."""
    decoder = EnvelopeDecoder()
    body = Envelope(0, json.dumps(request).encode()).encode()
    with httpx.stream(
        "POST", url, content=body, headers={"content-type": "application/connect+json"} | headers, timeout=120
    ) as reply:
        for piece in reply.iter_raw():
            for envelope in decoder.feed(piece):
                if envelope.flags == MESSAGE:
                    yield json.loads(envelope.payload)["event"]


def test_output_without_end_streams_in_flat_memory(manager: RunningManager, remote: Sandbox) -> None:
    peaks = Peaks(manager, remote)
    request = {"process": {"cmd": "bash", "args": ["-c", "yes | head -c 200M"]}, "stdin": False}
    url = f"{manager.sandbox_url(remote.sandbox_id, 49983)}/process.Process/Start"
    size = 0
    for event in stream(url, request, dict(remote.connection_config.sandbox_headers)):
        if "data" in event:
            size += len(base64.b64decode(event["data"]["stdout"]))
    assert size == 200 * MIB
    assert event["end"]["exitCode"] == 0
    assert peaks.grown() < FLAT_KILOBYTES


@pytest.mark.parametrize("shape", ["octets", "chunked", "form"])
def test_large_files_go_up_and_down_in_flat_memory(shape: str, manager: RunningManager, remote: Sandbox) -> None:
    size = 256
    block = bytes(range(256)) * (MIB // 256)
    wanted = hashlib.sha256(block * size).digest()
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' if shape == "form" else b""
    tail = b"\r\n--b--\r\n" if shape == "form" else b""

    def body() -> Iterator[bytes]:
        yield head
        for _ in range(size):
            yield block
        yield tail

    headers = {"content-type": "multipart/form-data; boundary=b" if head else "application/octet-stream"}
    if shape != "chunked":
        headers["content-length"] = str(len(head) + size * MIB + len(tail))
    peaks = Peaks(manager, remote)
    assert httpx.post(remote.upload_url("f"), content=body(), headers=headers, timeout=120).status_code == 200
    found = hashlib.sha256()
    with httpx.stream("GET", remote.download_url("f"), timeout=120) as reply:
        for piece in reply.iter_raw():
            found.update(piece)
    assert found.digest() == wanted
    assert peaks.grown() < FLAT_KILOBYTES


def test_five_hundred_commands_in_a_row_leave_nothing_behind(sandbox: Sandbox, served_envd: Any) -> None:
    sandbox.commands.run("true")
    before = open_descriptors()
    for number in range(500):
        result = sandbox.commands.run(f"echo {number}; echo {-number} >&2")
        assert (result.stdout, result.stderr, result.exit_code) == (f"{number}\n", f"{-number}\n", 0)
    assert sandbox.commands.list() == []
    assert open_descriptors() < before + 20, "connections come and go, a leak would be in the hundreds"


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_more_processes_than_a_login_shell_may_have_descriptors(tmp_path: Path, patched: None) -> None:
    with running_manager(tmp_path) as manager:
        hard = resource.prlimit(manager.process.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(manager.process.pid, resource.RLIMIT_NOFILE, (200, hard))
        with Sandbox.create("base", domain=manager.domain, api_key=manager.api_key) as sandbox:
            assert sandbox.commands.run("ulimit -n").stdout.strip() == str(min(hard, 65536))
            for _ in range(100):
                sandbox.commands.run("sleep 600", background=True, timeout=0).disconnect()
            assert len(sandbox.commands.list()) == 100
            assert sandbox.commands.run("echo one more").stdout == "one more\n"


def test_listeners_that_come_at_any_time_get_all_from_then_on_once(sandbox: Sandbox) -> None:
    rounds, lines = 8, 500
    script = f"n=0; while read; do for i in $(seq {lines}); do echo $((n++)); done; done"
    first = sandbox.commands.run(script, background=True, stdin=True, timeout=120)
    received: list[list[str]] = []
    threads = []

    def listen(handle: Any) -> None:
        received.append(handle.wait().stdout.split())

    for handle in [first] + [None] * rounds:
        # While the output of the round before is still on its way.
        thread = threading.Thread(target=listen, args=(handle or sandbox.commands.connect(first.pid, timeout=120),))
        thread.start()
        threads.append(thread)
        sandbox.commands.send_stdin(first.pid, "\n")
    sandbox.commands.close_stdin(first.pid)
    for thread in threads:
        thread.join(60)
    everything = [str(number) for number in range((rounds + 1) * lines)]
    assert len(received) == rounds + 1
    assert max(received, key=len) == everything
    for found in received:
        text, whole = "\n".join(found), "\n".join(everything)
        assert text
        assert whole.endswith(text), "something in the middle is missing, or came twice"


def test_a_listener_that_does_not_read_holds_up_the_others_only_until_it_goes(
    sandbox: Sandbox, served_envd: Any, wait_until: Callable[..., None]
) -> None:
    first = sandbox.commands.run(
        "read; head -c 30000000 /dev/zero | tr '\\0' x", background=True, stdin=True, timeout=120
    )
    request = {"process": {"pid": first.pid}}
    lazy = stream(f"{served_envd.url}/process.Process/Connect", request, {})
    assert next(lazy) == {"start": {"pid": first.pid}}
    sandbox.commands.send_stdin(first.pid, "\n")
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(len(first.wait().stdout)))
    thread.start()
    lazy.close()
    thread.join(60)
    assert results == [30_000_000]


def test_the_time_out_of_a_listener_is_its_own(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("read x; echo got $x", background=True, stdin=True, timeout=0)
    with pytest.raises(TimeoutException):
        sandbox.commands.connect(handle.pid, timeout=0.2).wait()
    sandbox.commands.send_stdin(handle.pid, "it\n")
    assert handle.wait().stdout == "got it\n"


def test_the_time_out_of_a_process_is_its_own_too(sandbox: Sandbox, wait_until: Callable[..., None]) -> None:
    """The time-out ends the process although no client listens any more."""
    handle = sandbox.commands.run("sleep 600", background=True, timeout=0.5)
    handle.disconnect()
    listener = sandbox.commands.connect(handle.pid, timeout=60)
    with contextlib.suppress(Exception):
        listener.wait()
    wait_until(lambda: sandbox.commands.list() == [])
    assert sandbox.commands.kill(handle.pid) is False


def test_a_request_time_out_is_not_one_of_the_process(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("sleep 600", background=True, stdin=True, timeout=0)
    with pytest.raises(TimeoutException):
        # Nobody reads: the request waits, and fails alone.
        sandbox.commands.send_stdin(handle.pid, "x" * 5_000_000, request_timeout=0.5)
    assert [process.pid for process in sandbox.commands.list()] == [handle.pid]
    assert handle.kill()
    with pytest.raises(NotFoundException):
        sandbox.commands.send_stdin(handle.pid, "x")
