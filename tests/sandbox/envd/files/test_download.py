"""Downloads: whole, in part, and from files whose size is a lie."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import FileNotFoundException, InvalidArgumentException, Sandbox


def get(served: Any, path: str | None, **headers: str) -> httpx.Response:
    query = {} if path is None else {"path": path}
    merged = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(served.url + "/files", params=query, headers=merged)


def test_every_format_of_the_sdk(sandbox: Sandbox) -> None:
    sandbox.files.write("f", "täxt")
    assert sandbox.files.read("f") == "täxt"
    assert bytes(sandbox.files.read("f", format="bytes")) == "täxt".encode()
    assert b"".join(sandbox.files.read("f", format="stream")) == "täxt".encode()


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 5_000_000])
def test_every_size_arrives_whole(size: int, served_envd: Any) -> None:
    content = os.urandom(size)
    (served_envd.home / "f").write_bytes(content)
    reply = get(served_envd, "f")
    assert hashlib.sha256(reply.content).digest() == hashlib.sha256(content).digest()


def test_files_of_unknown_size_are_read_to_their_end(sandbox: Sandbox) -> None:
    assert len(sandbox.files.read("/proc/sys/kernel/random/boot_id")) == 37
    assert "Name:" in sandbox.files.read("/proc/self/status")


# The stated size is that of a page.
PAGES = ["/sys/class/net/lo/mtu", "/sys/kernel/mm/transparent_hugepage/enabled"]
RECORDS = ["/proc/sys/kernel/random/boot_id", "/proc/filesystems"]


@pytest.mark.parametrize("path", [*PAGES, *RECORDS])
def test_files_of_a_wrong_size_are_read_whole_and_in_part(path: str, sandbox: Sandbox, served_envd: Any) -> None:
    if not Path(path).exists():
        pytest.skip(f"this machine has no {path}")
    content = Path(path).read_bytes()
    size = len(content)
    assert sandbox.files.read(path, format="bytes") == content
    assert b"".join(sandbox.files.read(path, format="stream")) == content
    assert sandbox.files.read(path, gzip=True) == content.decode()
    for wanted, part in [("0-2", content[:3]), ("1-", content[1:]), ("-2", content[-2:]), ("-9999", content)]:
        reply = get(served_envd, path, range=f"bytes={wanted}")
        assert (reply.status_code, reply.content) == (206, part)
        assert reply.headers["content-range"].endswith(f"/{size}")
    reply = get(served_envd, path, range=f"bytes={size}-")
    assert (reply.status_code, reply.headers["content-range"]) == (416, f"bytes */{size}")
    reply = httpx.head(served_envd.url + "/files", params={"path": path})
    assert (reply.status_code, reply.headers["content-length"]) == (200, str(size))


def test_files_that_change_without_a_time_of_change_are_never_unchanged(served_envd: Any) -> None:
    path, tomorrow = "/proc/uptime", formatdate(time.time() + 86400, usegmt=True)
    reply = get(served_envd, path, if_modified_since=tomorrow)
    assert reply.status_code == 200
    assert float(reply.text.split()[0])
    assert "last-modified" not in reply.headers
    assert get(served_envd, path, if_range=tomorrow, range="bytes=0-2").status_code == 200


def test_a_file_that_grows_while_it_is_read_arrives_as_it_began(served_envd: Any) -> None:
    size = 20_000_000
    with (served_envd.home / "f").open("wb") as file:
        file.truncate(size)
        file.seek(size)
        with httpx.stream("GET", served_envd.url + "/files", params={"path": "f"}) as reply:
            pieces = reply.iter_raw()
            received = len(next(pieces))
            file.write(b"more")
            file.flush()
            received += sum(map(len, pieces))
        assert received == size
        assert reply.headers["content-length"] == str(size)


@pytest.mark.parametrize("part", [{}, {"range": "bytes=10-"}])
def test_a_file_that_shrinks_while_it_is_read_fails(part: dict[str, str], served_envd: Any) -> None:
    with (served_envd.home / "f").open("wb") as file:
        file.truncate(50_000_000)
        with httpx.stream("GET", served_envd.url + "/files", params={"path": "f"}, headers=part) as reply:
            pieces = reply.iter_raw()
            next(pieces)
            file.truncate(1000)
            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)


def test_a_pipe_without_a_writer_is_empty(sandbox: Sandbox, served_envd: Any) -> None:
    os.mkfifo(served_envd.home / "pipe")
    assert sandbox.files.read("pipe") == ""


def test_errors_name_the_path(served_envd: Any, sandbox: Sandbox) -> None:
    home = served_envd.home
    (home / "file").write_text("x")
    for path, status, message in [
        ("none", 404, f"path '{home}/none' does not exist"),
        (None, 400, f"path '{home}' is a directory"),
        ("", 400, f"path '{home}' is a directory"),
        (
            "~bob/x",
            400,
            "error expanding and resolving path '~bob/x': failed to expand path '~bob/x' for user 'user':"
            " cannot expand user-specific home dir",
        ),
        ("file/x", 500, f"error opening file '{home}/file/x': open {home}/file/x: not a directory"),
    ]:
        reply = get(served_envd, path)
        assert (reply.status_code, reply.json()) == (status, {"code": status, "message": message})
    with pytest.raises(FileNotFoundException):
        sandbox.files.read("none")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.read(".")
    assert get(served_envd, "a\0b").status_code == 400


@pytest.mark.parametrize(
    ("name", "content", "content_type"),
    [
        ("a.txt", b"x", "text/plain; charset=utf-8"),
        ("a.json", b"{}", "application/json"),
        ("a.png", b"x", "image/png"),
        ("a.tar.gz", b"x", "application/gzip"),
        ("noext", b"plain text\n", "text/plain; charset=utf-8"),
        ("noext2", b"\0\1\2", "application/octet-stream"),
    ],
)
def test_the_type_is_guessed(name: str, content: bytes, content_type: str, served_envd: Any) -> None:
    (served_envd.home / name).write_bytes(content)
    assert get(served_envd, name).headers["content-type"] == content_type


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("a.txt", "inline; filename=a.txt"),
        ("a b.txt", 'inline; filename="a b.txt"'),
        ('q".txt', 'inline; filename="q\\".txt"'),
        ("ü.txt", "inline; filename*=utf-8''%C3%BC.txt"),
    ],
)
def test_the_name_is_in_the_headers(name: str, disposition: str, served_envd: Any) -> None:
    (served_envd.home / name).write_bytes(b"x")
    reply = get(served_envd, name)
    assert reply.headers["content-disposition"] == disposition
    assert "Accept-Encoding" in reply.headers["vary"]


@pytest.mark.parametrize(
    ("wanted", "content", "content_range"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-100", b"0123456789", "bytes 0-9/10"),
        ("bytes=8-100", b"89", "bytes 8-9/10"),
        (f"bytes=8-{2**63 - 1}", b"89", "bytes 8-9/10"),
    ],
)
def test_a_range_is_a_part(wanted: str, content: bytes, content_range: str, served_envd: Any) -> None:
    (served_envd.home / "f").write_bytes(b"0123456789")
    reply = get(served_envd, "f", range=wanted)
    assert (reply.status_code, reply.content) == (206, content)
    assert reply.headers["content-range"] == content_range


@pytest.mark.parametrize(
    "wanted", ["bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,4-5", "nonsense", f"bytes={'1' * 5000}-"]
)
def test_ranges_that_are_none_give_everything(wanted: str, served_envd: Any) -> None:
    (served_envd.home / "f").write_bytes(b"0123456789")
    reply = get(served_envd, "f", range=wanted)
    assert (reply.status_code, reply.content) == (200, b"0123456789")
    assert reply.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=-0"])
def test_a_range_behind_the_end_is_416(wanted: str, served_envd: Any) -> None:
    (served_envd.home / "f").write_bytes(b"0123456789")
    reply = get(served_envd, "f", range=wanted)
    assert (reply.status_code, reply.headers["content-range"]) == (416, "bytes */10")


@pytest.mark.parametrize("wanted", ["bytes=0-", "bytes=0-99", "bytes=-5"])
def test_an_empty_file_is_sent_whole(wanted: str, served_envd: Any) -> None:
    (served_envd.home / "f").touch()
    reply = get(served_envd, "f", range=wanted)
    assert (reply.status_code, reply.content, reply.headers["content-length"]) == (200, b"", "0")


def test_conditions_look_at_the_time_of_change(served_envd: Any) -> None:
    (served_envd.home / "f").write_bytes(b"0123456789")
    date = get(served_envd, "f").headers["last-modified"]
    old = "Thu, 01 Jan 1970 00:00:00 GMT"
    assert get(served_envd, "f", if_modified_since=date).status_code == 304
    assert get(served_envd, "f", if_modified_since=old).status_code == 200
    assert get(served_envd, "f", if_modified_since=f"Thu, 01 Jan {'9' * 20} 00:00:00 GMT").status_code == 200
    assert get(served_envd, "f", range="bytes=0-1", if_range=date).status_code == 206
    assert get(served_envd, "f", range="bytes=0-1", if_range=old).status_code == 200


def raw(served: Any, path: str, **headers: str) -> tuple[httpx.Response, bytes]:
    """Return a response, and the body as it was on the wire."""
    merged = {name.replace("_", "-"): value for name, value in headers.items()}
    with httpx.stream("GET", served.url + "/files", params={"path": path}, headers=merged) as reply:
        return reply, b"".join(reply.iter_raw())


@pytest.mark.parametrize("accepted", ["gzip", "GZIP;q=0.5", "gzip, identity;q=0", "br, *;q=0.1, identity;q=0"])
@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_content_is_compressed_for_those_who_ask_for_that(accepted: str, size: int, served_envd: Any) -> None:
    content = (b"line\n" * 600_000)[:size]
    (served_envd.home / "f.txt").write_bytes(content)
    reply, body = raw(served_envd, "f.txt", accept_encoding=accepted)
    assert (reply.status_code, reply.headers["content-encoding"]) == (200, "gzip")
    assert gzip.decompress(body) == content
    assert len(body) < max(100, size // 10)
    assert "content-length" not in reply.headers
    assert "accept-ranges" not in reply.headers
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"


def test_the_sdk_gets_compressed_content(sandbox: Sandbox) -> None:
    sandbox.files.write("f", "täxt" * 1000)
    assert sandbox.files.read("f", gzip=True) == "täxt" * 1000
    assert len(sandbox.files.read("/proc/sys/kernel/random/boot_id", gzip=True)) == 37


@pytest.mark.parametrize(
    "accepted", ["", "*", "gzip, deflate", "gzip, deflate, br, zstd", "identity", "br", "gzip;q=0", "gzip, identity"]
)
def test_everybody_else_gets_it_as_it_is(accepted: str, served_envd: Any) -> None:
    (served_envd.home / "f").write_bytes(b"x" * 1000)
    reply, body = raw(served_envd, "f", accept_encoding=accepted)
    assert (reply.status_code, body) == (200, b"x" * 1000)
    assert "content-encoding" not in reply.headers


def test_parts_and_conditions_are_those_of_the_content_as_it_is(served_envd: Any) -> None:
    (served_envd.home / "f").write_bytes(b"0123456789")
    reply, body = raw(served_envd, "f", accept_encoding="gzip", range="bytes=2-3")
    assert (reply.status_code, body) == (206, b"23")
    date = reply.headers["last-modified"]
    assert raw(served_envd, "f", accept_encoding="gzip", if_modified_since=date)[0].status_code == 304
    assert "content-encoding" not in raw(served_envd, "f", accept_encoding="gzip", if_none_match='"x"')[0].headers


@pytest.mark.parametrize(
    ("accepted", "cause"),
    [
        ("identity;q=0", "no acceptable encoding, supported: identity, gzip"),
        ("*;q=0", "no acceptable encoding, supported: identity, gzip"),
        ("br, gzip;q=0, identity;q=0", "no acceptable encoding, supported: identity, gzip"),
        ("gzip;q=x", "invalid quality value 'x'"),
        ("gzip;q=2", "invalid quality value '2'"),
        ("gzip;q=nan", "invalid quality value 'nan'"),
    ],
)
def test_clients_that_take_nothing_we_have_are_refused(accepted: str, cause: str, served_envd: Any) -> None:
    (served_envd.home / "f").write_bytes(b"x")
    reply = get(served_envd, "f", accept_encoding=accepted)
    assert (reply.status_code, reply.json()["message"]) == (406, f"error parsing Accept-Encoding: {cause}")


def test_only_the_head_may_be_asked_for(served_envd: Any) -> None:
    (served_envd.home / "f.txt").write_bytes(b"0123456789")
    with httpx.Client(base_url=served_envd.url, timeout=10) as client:
        reply = client.head("/files", params={"path": "f.txt"})
        assert (reply.status_code, reply.headers["content-length"], reply.content) == (200, "10", b"")
        assert client.head("/files", params={"path": "/dev/zero"}).status_code == 200
        assert client.get("/files", params={"path": "f.txt"}).content == b"0123456789"
    assert open_files(Path("/dev/zero")) == 0


def test_an_endless_file_ends_with_its_reader(served_envd: Any, wait_until: Callable[..., None]) -> None:
    for accepted in ("identity", "gzip"):
        with httpx.stream(
            "GET", served_envd.url + "/files", params={"path": "/dev/zero"}, headers={"accept-encoding": accepted}
        ) as reply:
            pieces = reply.iter_raw()
            assert len(next(pieces)) > 0
            assert open_files(Path("/dev/zero")) == 1
        wait_until(lambda: open_files(Path("/dev/zero")) == 0)


def test_a_client_that_goes_lets_go_of_the_file(
    served_envd: Any, wait_until: Callable[..., None], tmp_path: Path
) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(1 << 30)
    with socket.create_connection(("127.0.0.1", served_envd.port)) as connection:
        connection.sendall(f"GET /files?path={big} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        connection.recv(1000)
        assert open_files(big) == 1
    wait_until(lambda: open_files(big) == 0)


def open_files(path: Path) -> int:
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            count += descriptor.readlink() == path
        except OSError:
            continue
    return count
