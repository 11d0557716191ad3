"""Uploads whose connection is cut, at byte after byte, on their way through a manager: the old file or the new one."""

from __future__ import annotations

import gzip
import random
import socket

import httpx
import pytest
from e2b import Sandbox

from support.managers import RunningManager, wait_for

OLD = b"the old content"
# More than is kept in memory, and not compressible, so that every form of it is spooled to a file.
LARGE = random.Random(1).randbytes(1_500_000)
SMALL = b"the new content"


def octets(content: bytes) -> tuple[str, bytes]:
    return f"Content-Type: application/octet-stream\r\nContent-Length: {len(content)}", content


def chunked(content: bytes) -> tuple[str, bytes]:
    size = max(1, len(content) // 3)
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked", body


def zipped(content: bytes) -> tuple[str, bytes]:
    head, body = octets(gzip.compress(content, mtime=0))
    return f"Content-Encoding: gzip\r\n{head}", body


def form(content: bytes) -> tuple[str, bytes]:
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="ignored"\r\n\r\n'
    body = part + content + b"\r\n--b--\r\n"
    return f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}", body


FORMS = [octets, chunked, zipped, form]


def spooled(sandbox: Sandbox) -> int:
    """Return the number of temporary files that envd has open. They are unnamed, and a command's parent is envd."""
    count = "find /proc/$PPID/fd -lname '/tmp/*(deleted)' | wc -l"
    return int(sandbox.commands.run(count, user="root").stdout)


class Target:
    """A file of a sandbox, and the bytes of uploads to this file."""

    def __init__(self, manager: RunningManager, sandbox: Sandbox, name: str) -> None:
        self._manager = manager
        self._sandbox = sandbox
        self._name = name
        self._url = httpx.URL(sandbox.upload_url(name))

    def request(self, headers: str, body: bytes) -> bytes:
        head = f"POST {self._url.raw_path.decode()} HTTP/1.1\r\nHost: {self._manager.domain}\r\n{headers}\r\n\r\n"
        return head.encode() + body

    def send(self, request: bytes, rudely: bool = False) -> None:
        """Send these bytes and go."""
        with socket.create_connection(("127.0.0.1", self._manager.port), timeout=20) as connection:
            connection.sendall(request)
            if rudely:  # the other side sees a reset instead of an end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def complete(self, request: bytes) -> bytes:
        """Send all of it; the status line."""
        with socket.create_connection(("127.0.0.1", self._manager.port), timeout=20) as connection:
            connection.sendall(request)
            return connection.recv(4096).split(b"\r\n", 1)[0]

    def write(self, content: bytes) -> None:
        self._sandbox.files.write(self._name, content)

    def read(self) -> bytes | None:
        if not self._sandbox.files.exists(self._name):
            return None
        return bytes(self._sandbox.files.read(self._name, format="bytes"))


@pytest.mark.parametrize("shape", FORMS)
def test_a_cut_at_any_byte_leaves_the_old_file(shape: object, manager: RunningManager, remote: Sandbox) -> None:
    headers, body = shape(SMALL)  # type: ignore[operator]  # a function of FORMS
    old, new = Target(manager, remote, "old"), Target(manager, remote, "new")
    old.write(OLD)
    for target in (old, new):
        whole = target.request(headers, body)
        for cut in range(1, len(whole)):
            target.send(whole[:cut], rudely=cut % 2 == 0)
    # What came in one connection is handled before what comes in a later one is answered.
    assert (old.read(), new.read()) == (OLD, None)
    for target in (old, new):
        assert target.complete(target.request(headers, body)) == b"HTTP/1.1 200 OK"
        assert target.read() == SMALL


@pytest.mark.parametrize("shape", FORMS)
def test_a_cut_in_a_large_upload_leaves_the_old_file_and_nothing_else(
    shape: object, manager: RunningManager, remote: Sandbox
) -> None:
    headers, body = shape(LARGE)  # type: ignore[operator]  # a function of FORMS
    target = Target(manager, remote, "folder/f")
    target.write(OLD)
    whole = target.request(headers, body)
    rest = len(whole) - len(body)
    cuts = [rest, rest + 1, rest + 70_000, rest + (1 << 20) + 1, *(len(whole) - back for back in (40_000, 17, 8, 4, 1))]
    with socket.create_connection(("127.0.0.1", manager.port), timeout=20) as connection:
        connection.sendall(whole[:-1])
        wait_for(lambda: spooled(remote) == 1, what="the temporary file of an upload")
    for number, cut in enumerate(cuts):
        target.send(whole[:cut], rudely=number % 2 == 0)
    wait_for(lambda: spooled(remote) == 0, what="the end of the temporary files")
    assert target.read() == OLD
    assert [entry.name for entry in remote.files.list("folder")] == ["f"]
    assert target.complete(whole) == b"HTTP/1.1 200 OK"
    assert target.read() == LARGE


def test_a_client_that_goes_without_the_answer_has_written_all_or_nothing(
    manager: RunningManager, remote: Sandbox
) -> None:
    target = Target(manager, remote, "f")
    target.write(OLD)
    for number in range(20):
        target.send(target.request(*octets(SMALL)), rudely=number % 2 == 0)
        assert target.read() in (OLD, SMALL)


def test_a_form_of_several_files_that_is_cut_writes_none(manager: RunningManager, remote: Sandbox) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n%b\r\n'
    body = b"".join(part % (name, b"x" * 1000) for name in (b"one", b"two", b"three")) + b"--b--\r\n"
    headers = f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}"
    url = httpx.URL(remote.upload_url(""))
    head = f"POST {url.raw_path.decode()} HTTP/1.1\r\nHost: {manager.domain}\r\n{headers}\r\n\r\n".encode()
    for cut in range(50, len(body), 50):
        with socket.create_connection(("127.0.0.1", manager.port), timeout=20) as connection:
            connection.sendall(head + body[:cut])
    assert [name for name in ("one", "two", "three") if remote.files.exists(name)] == []
    with socket.create_connection(("127.0.0.1", manager.port), timeout=20) as connection:
        connection.sendall(head + body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    assert [name for name in ("one", "two", "three") if remote.files.exists(name)] == ["one", "two", "three"]


def test_a_refusal_reaches_a_client_that_has_not_sent_everything(manager: RunningManager, remote: Sandbox) -> None:
    target = Target(manager, remote, "f")
    refused = target.request(f"Content-Type: application/octet-stream\r\nContent-Length: {10**15}", b"x" * 100_000)
    assert target.complete(refused).startswith(b"HTTP/1.1 507 ")
    reply = httpx.post(
        remote.upload_url("f"), content=(b"x" * 65536 for _ in range(500)), headers={"content-type": "text/plain"}
    )
    assert reply.status_code == 400
    assert reply.json()["message"].startswith("unsupported content type: text/plain")
    assert target.read() is None
