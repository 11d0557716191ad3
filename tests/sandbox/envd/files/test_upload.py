"""Uploads: forms of the request, owners and modes, and what a failure leaves behind."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import select
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import InvalidArgumentException, NotEnoughSpaceException, Sandbox
from e2b.sandbox.filesystem.filesystem import WriteEntry

OCTETS = {"content-type": "application/octet-stream"}


def post(served: Any, path: str | None, content: Any, **headers: str) -> httpx.Response:
    query = {} if path is None else {"path": path}
    merged = OCTETS | {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(served.url + "/files", params=query, content=content, headers=merged)


def test_text_bytes_and_files_are_written(sandbox: Sandbox) -> None:
    assert sandbox.files.write("a/b/t.txt", "täxt").path.endswith("/home/a/b/t.txt")
    sandbox.files.write("bytes", b"\x00\xff")
    sandbox.files.write("file", io.BytesIO(b"content"))
    sandbox.files.write("empty", "")
    assert sandbox.files.read("a/b/t.txt") == "täxt"
    assert bytes(sandbox.files.read("bytes", format="bytes")) == b"\x00\xff"
    assert sandbox.files.read("file") == "content"
    assert sandbox.files.read("empty") == ""


@pytest.mark.parametrize("name", ["a b", "quote\"s'", "back\\slash", "ünï☃", "percent%20", "new\nline", "-"])
def test_any_name_is_a_name(name: str, sandbox: Sandbox, served_envd: Any) -> None:
    sandbox.files.write(name, "x")
    assert (served_envd.home / name).read_text() == "x"
    assert sandbox.files.read(name) == "x"


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_neither_file_nor_device_is_refused_at_once(
    kind: str, sandbox: Sandbox, served_envd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No program may be at the other end, and the rest of the sandbox must not wait for one."""
    monkeypatch.chdir(served_envd.home)
    with socket.socket(socket.AF_UNIX) as listener:
        os.mkfifo("pipe")
        listener.bind("socket")
        with pytest.raises(InvalidArgumentException, match=f"path is not a regular file: {served_envd.home}/{kind}"):
            sandbox.files.write(kind, "x", request_timeout=5)


def test_a_reader_of_a_pipe_is_left_alone(sandbox: Sandbox, served_envd: Any) -> None:
    pipe = served_envd.home / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(InvalidArgumentException, match="path is not a regular file"):
            sandbox.files.write("pipe", "x")
        with select.epoll() as poll:
            poll.register(reader, select.EPOLLIN)
            assert poll.poll(0) == [], "the pipe was opened and closed"
    finally:
        os.close(reader)


def test_several_files_come_back_in_order(sandbox: Sandbox) -> None:
    names = [f"many/{number}" for number in range(30)]
    written = sandbox.files.write_files([WriteEntry(path=name, data=name) for name in names])
    assert [Path(info.path).name for info in written] == [str(number) for number in range(30)]
    assert [sandbox.files.read(name) for name in names] == names


def test_several_files_in_one_form_carry_their_paths_as_filenames(served_envd: Any) -> None:
    """SDKs before 2.20 upload files in this way."""
    absolute = f"{served_envd.home}/x/2"
    parts = [("file", ("1", b"one")), ("other", ("ignored", b"-")), ("file", (absolute, b"two"))]
    reply = httpx.post(served_envd.url + "/files", files=parts)
    assert reply.json() == [
        {"path": f"{served_envd.home}/1", "name": "1", "type": "file"},
        {"path": absolute, "name": "2", "type": "file"},
    ]
    assert (served_envd.home / "x/2").read_bytes() == b"two"
    assert not (served_envd.home / "ignored").exists()


def test_filenames_of_a_form_keep_their_control_characters(sandbox: Sandbox, served_envd: Any) -> None:
    names = [
        "tab\there",
        "new\nline",
        "return\rhere",
        "escape\x1b",
        "unit\x1f",
        'a "b"',
        "back\\slash",
        "100%",
        "%20",
        "%7F",
    ]
    sandbox.files.write_files([WriteEntry(path=name, data=name) for name in names])
    assert {one.name for one in served_envd.home.iterdir()} == set(names)


def test_a_nul_in_the_filename_of_a_form_is_refused(served_envd: Any) -> None:
    reply = httpx.post(served_envd.url + "/files", files=[("file", ("a\0b", b"x"))])
    assert reply.status_code == 400
    assert list(served_envd.home.iterdir()) == []


def test_more_parts_than_frameworks_usually_allow(served_envd: Any) -> None:
    parts = [("file", (f"f{number}", b"x")) for number in range(1500)]
    assert len(httpx.post(served_envd.url + "/files", files=parts, timeout=60).json()) == 1500


def test_a_large_file_arrives_whole(sandbox: Sandbox, served_envd: Any) -> None:
    content = os.urandom(24 * 1024 * 1024 + 1)
    wanted = hashlib.sha256(content).digest()
    sandbox.files.write("form", content)
    sandbox.files.write("raw", io.BytesIO(content))
    sandbox.files.write("zipped", content, gzip=True)
    for name in ("form", "raw", "zipped"):
        assert hashlib.sha256((served_envd.home / name).read_bytes()).digest() == wanted


def test_writers_of_one_file_take_turns(served_envd: Any) -> None:
    contents = [bytes([number]) * 30_000_000 for number in range(6)]
    (served_envd.home / "link").symlink_to("f")
    with ThreadPoolExecutor(6) as pool:
        replies = pool.map(lambda content: post(served_envd, "link" if content[0] % 2 else "f", content), contents)
        assert [reply.status_code for reply in replies] == [200] * 6
    assert (served_envd.home / "f").read_bytes() in contents


def test_chunked_bodies_work(served_envd: Any) -> None:
    reply = post(served_envd, "c", iter([b"a" * 70_000, b"b"]))
    assert reply.status_code == 200
    assert (served_envd.home / "c").stat().st_size == 70_001


def test_new_files_are_0644_and_folders_0755(sandbox: Sandbox, served_envd: Any) -> None:
    sandbox.files.write("d/e/f", "x")
    assert (served_envd.home / "d/e/f").stat().st_mode & 0o7777 == 0o644
    assert (served_envd.home / "d").stat().st_mode & 0o7777 == 0o755
    assert (served_envd.home / "d/e").stat().st_mode & 0o7777 == 0o755


def test_folders_that_are_there_stay_as_they_are(sandbox: Sandbox, served_envd: Any) -> None:
    (served_envd.home / "d").mkdir(mode=0o700)
    sandbox.files.write("d/e/f", "x")
    assert (served_envd.home / "d").stat().st_mode & 0o7777 == 0o700


def test_an_existing_file_keeps_its_mode_and_inode(sandbox: Sandbox, served_envd: Any) -> None:
    file = served_envd.home / "script"
    file.write_text("old and longer")
    file.chmod(0o750)
    before = file.stat()
    sandbox.files.write("script", "new")
    assert file.read_text() == "new"
    assert (file.stat().st_ino, file.stat().st_mode) == (before.st_ino, before.st_mode)


def test_links_are_followed(sandbox: Sandbox, served_envd: Any) -> None:
    (served_envd.home / "link").symlink_to("target")
    sandbox.files.write("link", "x")
    assert (served_envd.home / "target").read_text() == "x"
    assert (served_envd.home / "link").is_symlink()


def test_paths_begin_at_home(sandbox: Sandbox, served_envd: Any, tmp_path: Path) -> None:
    sandbox.files.write("~/a", "x")
    sandbox.files.write("b/../c", "x")
    sandbox.files.write(f"{tmp_path}/outside", "x")
    assert (served_envd.home / "a").exists()
    assert (served_envd.home / "c").exists()
    assert (tmp_path / "outside").exists()
    with pytest.raises(InvalidArgumentException, match="cannot expand user-specific home dir"):
        sandbox.files.write("~bob/x", "x")


@pytest.mark.parametrize("existing", [None, b"the old content"])
@pytest.mark.parametrize("size", [1000, 5_000_000])
def test_a_body_that_is_cut_off_changes_nothing(
    existing: bytes | None, size: int, served_envd: Any, wait_until: Callable[..., None]
) -> None:
    file = served_envd.home / "f"
    if existing is not None:
        file.write_bytes(existing)
    head = (
        "POST /files?path=f HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {size + 1}\r\n\r\n"
    )
    before = unnamed_files()
    with socket.create_connection(("127.0.0.1", served_envd.port)) as connection:
        connection.sendall(head.encode() + b"x" * size)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1000):
            pass
    wait_until(lambda: unnamed_files() <= before)
    assert httpx.get(served_envd.url + "/health").status_code == 204
    assert [one.name for one in served_envd.home.iterdir()] == ([] if existing is None else ["f"])
    assert existing is None or file.read_bytes() == existing


def unnamed_files() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.endswith("(deleted)") and target.startswith(tempfile.gettempdir()):
            found.add(target)
    return found


def test_a_form_that_is_cut_off_changes_nothing(served_envd: Any) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nhalf'
    (served_envd.home / "f").write_text("old")
    head = (
        "POST /files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        "Content-Length: 1000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", served_envd.port)) as connection:
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1000):
            pass
    assert (served_envd.home / "f").read_text() == "old"


_PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\ncontent'


@pytest.mark.parametrize(
    "body",
    [b"", b"--b\r\n", _PART[:-9], _PART, _PART + b"\r\n--b", _PART + b"\r\n--b\r\n", _PART + b"\r\n--b-"],
    ids=["empty", "no part", "in the headers", "in the content", "in a boundary", "at a part", "in the closing one"],
)
def test_a_form_without_its_closing_boundary_is_refused(body: bytes, served_envd: Any) -> None:
    """The body has its full length, but the form in the body is incomplete."""
    before = unnamed_files()
    (served_envd.home / "f").write_text("old")
    reply = post(served_envd, None, body, content_type="multipart/form-data; boundary=b")
    assert reply.status_code == 400
    assert reply.json()["message"] == "error parsing multipart form: it ended early, before its closing boundary"
    assert (served_envd.home / "f").read_text() == "old"
    assert unnamed_files() <= before


@pytest.mark.parametrize(
    "ending", [b"\r\n--b--\r\n", b"\r\n--b--", b"\r\n--b--\r\nepilogue"], ids=["line", "end", "epilogue"]
)
def test_a_closed_form_may_end_in_several_ways(ending: bytes, served_envd: Any) -> None:
    reply = post(served_envd, None, _PART + ending, content_type="multipart/form-data; boundary=b")
    assert reply.status_code == 200
    assert (served_envd.home / "f").read_text() == "content"


@pytest.mark.parametrize("length", [4500, 60_000])
def test_a_path_that_is_too_long_is_named_as_the_cause(length: int, served_envd: Any) -> None:
    reply = httpx.post(served_envd.url + "/files", files=[("file", ("d/" * (length // 2), b"x"))])
    assert reply.status_code == 400
    assert "Maximum header size exceeded" in reply.json()["message"]
    assert "a path may have 4095 bytes" in reply.json()["message"]


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"x" * 1000)[:-5], b"", gzip.compress(b"x")[:-1] + b"\0\0"],
    ids=["no gzip", "cut off", "empty", "wrong length"],
)
def test_broken_gzip_changes_nothing(content: bytes, served_envd: Any) -> None:
    reply = post(served_envd, "f", content, content_encoding="gzip")
    assert reply.status_code == 400
    assert reply.json()["message"].startswith("error decompressing request body: ")
    assert not (served_envd.home / "f").exists()


def test_gzip_members_are_joined_and_forms_may_be_zipped(served_envd: Any) -> None:
    content = gzip.compress(b"a" * 600_000) + gzip.compress(b"b")
    assert post(served_envd, "f", content, content_encoding="gzip").status_code == 200
    assert (served_envd.home / "f").read_bytes() == b"a" * 600_000 + b"b"
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="g"\r\n\r\nzipped\r\n--b--\r\n'
    headers = {"content-encoding": "gzip", "content_type": "multipart/form-data; boundary=b"}
    assert post(served_envd, None, gzip.compress(form), **headers).status_code == 200
    assert (served_envd.home / "g").read_bytes() == b"zipped"


def test_unknown_encodings_are_refused(served_envd: Any) -> None:
    assert post(served_envd, "f", b"x", content_encoding="br").status_code == 400
    assert not (served_envd.home / "f").exists()


def test_mistakes_are_named(served_envd: Any) -> None:
    home = served_envd.home
    (home / "folder").mkdir()
    (home / "file").write_text("x")
    cases = [
        (post(served_envd, None, b"x"), 400, "path query parameter is required for raw body upload"),
        (post(served_envd, "folder", b"x"), 400, f"path is a directory: {home}/folder"),
        (post(served_envd, "file/x/y", b"x"), 500, f"error ensuring directories: path is a file: {home}/file"),
        (
            post(served_envd, "f", b"x", content_type="text/plain"),
            400,
            "unsupported content type: text/plain, expected multipart/form-data or application/octet-stream",
        ),
    ]
    for reply, status, message in cases:
        assert reply.json() == {"code": status, "message": message}
        assert reply.status_code == status


def test_broken_forms_are_refused(served_envd: Any) -> None:
    for content_type, body in [
        ("multipart/form-data", b"--b--"),
        ("multipart/form-data; boundary=b", b"nonsense"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n',
        ),
    ]:
        reply = post(served_envd, None, body, content_type=content_type)
        assert reply.status_code == 400, reply.text
        assert reply.json()["message"].startswith("error parsing multipart form: ")


def test_a_part_without_a_filename_takes_the_path(served_envd: Any) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n'
    reply = post(served_envd, "f", body, content_type="multipart/form-data; boundary=b")
    assert reply.status_code == 200
    assert (served_envd.home / "f").read_text() == "x"


def test_two_parts_for_one_path_are_refused_after_the_first(served_envd: Any) -> None:
    parts = [("file", ("a", b"1")), ("file", ("b", b"2")), ("file", ("./a", b"3"))]
    reply = httpx.post(served_envd.url + "/files", files=parts)
    path = served_envd.home / "a"
    assert reply.status_code == 400
    assert reply.json()["message"] == (
        f"you cannot upload multiple files to the same path '{path}' in one upload request,"
        " only the first specified file was uploaded,"
        f" also the following files were uploaded: {served_envd.home}/b"
    )
    assert path.read_bytes() == b"1"


def test_a_full_disk_is_reported_as_such(sandbox: Sandbox, served_envd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (served_envd.home / "f").write_text("old")
    real = os.statvfs(served_envd.home)
    full = os.statvfs_result([*real[:4], 0, *real[5:10]])
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(NotEnoughSpaceException, match="attempted to write 3 bytes: not enough disk space"):
        sandbox.files.write("f", "new")
    assert (served_envd.home / "f").read_text() == "old"


def test_a_disk_that_fills_up_while_writing_is_reported_too(sandbox: Sandbox, served_envd: Any) -> None:
    (served_envd.home / "f").symlink_to("/dev/full")
    with pytest.raises(NotEnoughSpaceException, match="attempted to write 3 bytes: not enough disk space"):
        sandbox.files.write("f", "new")
