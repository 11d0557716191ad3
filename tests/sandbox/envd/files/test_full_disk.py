"""Disks that are full: what is refused before it is read, what while it is, and that the old file stays.

envd runs as a program of its own in a mount namespace, with small file systems in memory for its home and its
temporary files.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.client
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.live
PROGRAM = Path(__file__).parents[1] / "programs" / "serve.py"
MOUNTING = ["unshare", "--user", "--map-root-user", "--mount"]
MIB = 1 << 20
OCTETS = {"content-type": "application/octet-stream"}


@functools.cache
def why_not() -> str | None:
    """Return why this machine cannot mount file systems, or None if it can."""
    try:
        done = subprocess.run(
            [*MOUNTING, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True, timeout=20, check=False
        )
    except FileNotFoundError as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip()


@dataclass
class SmallEnvd:
    url: str
    port: int
    pid: int

    def post(self, path: str, content: object, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        query = {"path": path}
        return httpx.post(f"{self.url}/files", params=query, content=content, headers=OCTETS | named, timeout=60)  # type: ignore[arg-type]  # bytes, or pieces of them

    def read(self, path: str) -> bytes:
        return httpx.get(f"{self.url}/files", params={"path": path}).content

    def names(self, path: str) -> list[str]:
        reply = httpx.post(f"{self.url}/filesystem.Filesystem/ListDir", json={"path": path})
        return [entry["name"] for entry in reply.json()["entries"]]


Serve = Callable[..., SmallEnvd]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serve with a home of ``options`` (of tmpfs); temporary files are on the same disk, unless they get their own."""
    if (reason := why_not()) is not None:
        pytest.skip(f"this machine permits no mount namespace: {reason}")
    with contextlib.ExitStack() as stack:

        def start(options: str, temporary: str | None = None) -> SmallEnvd:
            home, separate = tmp_path / "home", tmp_path / "temporary"
            home.mkdir()
            separate.mkdir()
            script = f'mount -t tmpfs -o {options} none "$1"'
            if temporary:
                script += f' && mount -t tmpfs -o {temporary} none "$2" && export TMPDIR="$2"'
            else:
                script += ' && mkdir "$1/tmp" && export TMPDIR="$1/tmp"'
            script += ' && exec "$3" "$4" "$1"'
            command = [*MOUNTING, "sh", "-c", script, "sh", str(home), str(separate), sys.executable, str(PROGRAM)]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            port = int(process.stdout.readline())
            return SmallEnvd(f"http://127.0.0.1:{port}", port, process.pid)

        yield start


def pieces(size: int) -> Iterator[bytes]:
    for _ in range(size // 65536):
        yield b"x" * 65536


def no_space(size: int) -> dict[str, object]:
    return {"code": 507, "message": f"attempted to write {size} bytes: not enough disk space available"}


def test_a_body_that_says_its_length_is_refused_before_it_is_sent(serve: Serve) -> None:
    envd = serve("size=8m")
    envd.post("f", b"old")
    for size in (5 * MIB, 10**15):
        head = "POST /files?path=f HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
        with socket.create_connection(("127.0.0.1", envd.port), timeout=20) as connection:
            connection.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
            with http.client.HTTPResponse(connection) as answer:
                answer.begin()
                assert answer.status == 507
                assert json.load(answer) == no_space(size)
    assert envd.read("f") == b"old"


def test_the_room_for_an_upload_is_that_for_the_waiting_and_the_final_file(serve: Serve) -> None:
    envd = serve("size=8m")
    assert envd.post("f", b"x" * (3 * MIB)).status_code == 200
    assert envd.post("g", b"x" * (3 * MIB)).json() == no_space(3 * MIB)
    assert envd.names(".") == ["f", "tmp"]


def test_a_sandbox_that_has_as_much_as_it_may_have_is_a_full_disk(serve: Serve) -> None:
    """A manager refuses further content by a limit of 0 bytes for the size of files."""
    envd = serve("size=64m")
    envd.post("f", b"old")
    resource.prlimit(envd.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    for size in (1, 3 * MIB):
        assert envd.post("g", b"x" * size).json() == no_space(size)
    assert envd.post("g", pieces(3 * MIB)).status_code == 507
    resource.prlimit(envd.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert envd.post("g", b"x" * (3 * MIB)).status_code == 200
    assert envd.read("f") == b"old"


def test_a_full_disk_of_temporary_files_is_one_too(serve: Serve) -> None:
    envd = serve("size=64m", "size=2m")
    assert envd.post("f", b"x" * (3 * MIB)).json() == no_space(3 * MIB)
    assert envd.post("f", b"x" * MIB).status_code == 200


def test_a_body_without_a_length_is_refused_when_the_disk_is_full(serve: Serve) -> None:
    envd = serve("size=8m")
    envd.post("f", b"old")
    reply = envd.post("f", pieces(12 * MIB))
    assert reply.status_code == 507
    assert reply.json()["message"].endswith(" bytes: not enough disk space available")
    assert envd.read("f") == b"old"
    assert envd.post("g", pieces(3 * MIB)).status_code == 200, "what was taken in has left the disk"


def test_a_form_is_refused_when_the_disk_is_full(serve: Serve) -> None:
    envd = serve("size=8m")
    files = [("file", (f"f{number}", b"x" * 700_000)) for number in range(20)]
    for reply in (
        httpx.post(f"{envd.url}/files", files=files),
        httpx.post(
            f"{envd.url}/files", content=form(12 * MIB), headers={"content-type": "multipart/form-data; boundary=b"}
        ),
    ):
        assert reply.status_code == 507
        assert reply.json()["message"].endswith(" bytes: not enough disk space available")
    assert envd.names(".") == ["tmp"]


def form(size: int) -> Iterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    yield from pieces(size)
    yield b"\r\n--b--\r\n"


def test_what_is_compressed_may_be_larger_than_the_disk(serve: Serve) -> None:
    envd = serve("size=8m")
    reply = envd.post("f", gzip.compress(b"x" * (64 * MIB)), content_encoding="gzip")
    assert reply.status_code == 507
    assert envd.names(".") == ["tmp"]


def test_a_disk_without_a_free_byte(serve: Serve) -> None:
    envd = serve("size=4m", "size=64m")
    assert envd.post("f", b"x" * (4 * MIB - 65536)).status_code == 200
    assert envd.post("g", b"x" * 200_000).json() == no_space(200_000)
    assert envd.names(".") == ["f"]


def test_a_disk_that_has_bytes_and_no_inodes(serve: Serve) -> None:
    envd = serve("size=8m,nr_inodes=16", "size=64m")
    answers = [envd.post(f"f{number:02}", b"x") for number in range(20)]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < 20
    assert {(answer.status_code, answer.json()["message"]) for answer in refused} == {
        (507, "not enough inodes available: 0")
    }
    assert envd.post("d/e", b"x").json()["message"] == "not enough inodes available: 0"
    assert envd.post("f00", b"over an old file").status_code == 200


def test_files_that_do_not_fit_together_stay_as_they_are(serve: Serve) -> None:
    envd = serve("size=8m", "size=64m")
    for name in ("a", "b", "c"):
        assert envd.post(name, b"x" * (2 * MIB)).status_code == 200
    request = {"source_paths": ["a", "b"], "destination": "c"}
    reply = httpx.post(f"{envd.url}/files/compose", json=request)
    assert reply.json() == {"code": 507, "message": "not enough disk space available"}
    assert envd.names(".") == ["a", "b", "c"]
    assert len(envd.read("c")) == 2 * MIB


def test_a_process_that_fills_the_disk_gets_an_error_of_its_own(serve: Serve) -> None:
    envd = serve("size=4m")
    body = json.dumps({"process": {"cmd": "sh", "args": ["-c", "head -c 9000000 /dev/zero > f"]}}).encode()
    frame = b"\0" + len(body).to_bytes(4, "big") + body
    headers = {"content-type": "application/connect+json"}
    reply = httpx.post(f"{envd.url}/process.Process/Start", content=frame, headers=headers)
    assert b'"exitCode":1' in reply.content
    assert httpx.get(f"{envd.url}/health").status_code == 204
