"""Requests that are wrong, on the routes of envd itself: each gets its code and a text that says what is wrong."""

from __future__ import annotations

import json
import os
import socket
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Sandbox, SandboxException

from kruise_agents.sandbox.connect.framing import Envelope, EnvelopeDecoder
from support.managers import available_runtime

STREAM = {"content-type": "application/connect+json"}
PROCESS = "/process.Process"
FILESYSTEM = "/filesystem.Filesystem"


def frame(message: Any) -> bytes:
    return Envelope(0, json.dumps(message).encode()).encode()


def refused(served: Any, path: str, body: bytes, **headers: str) -> tuple[str, str]:
    """Code and message of the error that a stream consists of."""
    merged = STREAM | {name.replace("_", "-"): value for name, value in headers.items()}
    reply = httpx.post(served.url + path, content=body, headers=merged, timeout=20)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/connect+json"
    [end] = EnvelopeDecoder().feed(reply.content)
    error = json.loads(end.payload)["error"]
    return error["code"], error["message"]


@pytest.mark.parametrize("path", [f"{PROCESS}/Start", f"{PROCESS}/Connect", f"{PROCESS}/StreamInput"])
@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b"\0\0\0\0\x10{}", "invalid_argument", "ends inside an envelope, after 2 of 16 bytes"),
        (b"\0\xff\xff\xff\xff{}", "invalid_argument", "ends inside an envelope, after 2 of 4294967295 bytes"),
        (b"\0\0\0", "invalid_argument", "ends inside an envelope's prefix, after 3 of 5 bytes"),
        (b"\0\0\0\0\0", "invalid_argument", "invalid JSON"),
        (frame({})[:-1] + b"]", "invalid_argument", "invalid JSON"),
        (frame([]), "invalid_argument", "not a JSON object"),
        (Envelope(0, b"\xff").encode(), "invalid_argument", "invalid JSON"),
        (b"\1" + frame({})[1:], "internal", "compressed envelope without an agreed compression"),
        (b"\x80" + frame({})[1:], "invalid_argument", "invalid envelope flags 0x80"),
        (frame({"process": 7}), "invalid_argument", "field 'process' is not a dict"),
    ],
    ids=[
        *("shorter than it says", "a huge length", "half a prefix", "empty", "broken JSON", "no object"),
        *("no text", "compressed", "unknown flags", "wrong type"),
    ],
)
def test_broken_frames(path: str, body: bytes, code: str, text: str, served_envd: Any) -> None:
    if path.endswith("StreamInput") and b"process" in body:
        body = frame({"start": {"process": 7}})
    found, message = refused(served_envd, path, body)
    assert found == code
    assert text in message


@pytest.mark.parametrize("path", [f"{PROCESS}/Start", f"{PROCESS}/Connect"])
def test_streams_of_one_message_take_one(path: str, served_envd: Any) -> None:
    for body in (b"", frame({}) + frame({})):
        assert refused(served_envd, path, body)[0] == "unimplemented"


@pytest.mark.parametrize(
    "path", [f"{PROCESS}/{name}" for name in ("List", "SendInput", "SendSignal")] + [f"{FILESYSTEM}/Stat"]
)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"process":' * 2000])
def test_broken_messages(path: str, body: bytes, served_envd: Any) -> None:
    reply = httpx.post(served_envd.url + path, content=body, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_argument")
    assert reply.json()["message"].startswith("unmarshal message: ")


@pytest.mark.parametrize(
    ("path", "request_", "field"),
    [
        (f"{FILESYSTEM}/Stat", {"path": 1}, "path"),
        (f"{FILESYSTEM}/ListDir", {"path": ".", "depth": -1}, "depth"),
        (f"{FILESYSTEM}/ListDir", {"path": ".", "depth": 2**32}, "depth"),
        (f"{FILESYSTEM}/Move", {"source": "a", "destination": []}, "destination"),
        (f"{PROCESS}/SendSignal", {"process": {"pid": "x"}, "signal": 9}, "pid"),
        (f"{PROCESS}/SendSignal", {"process": {"pid": -1}, "signal": 9}, "pid"),
        (f"{PROCESS}/SendInput", {"process": {"tag": 1}}, "tag"),
    ],
)
def test_fields_of_a_wrong_type_are_named(path: str, request_: dict[str, Any], field: str, served_envd: Any) -> None:
    reply = httpx.post(served_envd.url + path, json=request_)
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_argument")
    assert f"field '{field}' is not " in reply.json()["message"]


@pytest.mark.live
def test_input_that_is_no_base64(sandbox: Sandbox, served_envd: Any) -> None:
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    request = {"process": {"pid": handle.pid}, "input": {"stdin": "!"}}
    reply = httpx.post(f"{served_envd.url}{PROCESS}/SendInput", json=request)
    assert reply.json() == {"code": "invalid_argument", "message": "unmarshal message: field 'stdin' is not base64"}
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == ""


@pytest.mark.parametrize("path", [f"{PROCESS}/Nothing", f"{FILESYSTEM}/Nothing"])
def test_unknown_methods(path: str, served_envd: Any) -> None:
    reply = httpx.post(served_envd.url + path, json={})
    assert (reply.status_code, reply.json()["code"]) == (404, "unimplemented")
    assert "'Nothing'" in reply.json()["message"]


@pytest.mark.parametrize(
    ("path", "wanted"), [(f"{PROCESS}/List", "application/json"), (f"{PROCESS}/Start", "application/connect+json")]
)
@pytest.mark.parametrize("sent", ["application/proto", "application/connect+proto", "text/plain", "nonsense"])
def test_unknown_codecs(path: str, wanted: str, sent: str, served_envd: Any) -> None:
    reply = httpx.post(served_envd.url + path, content=b"", headers={"content-type": sent})
    assert (reply.status_code, reply.headers["accept-post"]) == (415, wanted)
    assert reply.text == f"unsupported content type '{sent}', expected {wanted}\n"
    assert httpx.get(served_envd.url + path).text == "GET is not allowed here, only POST\n"


def test_unknown_compressions(served_envd: Any) -> None:
    reply = httpx.post(
        f"{served_envd.url}{PROCESS}/List",
        content=b"{}",
        headers={"content-type": "application/json", "content-encoding": "br"},
    )
    assert (reply.status_code, reply.json()["code"]) == (501, "unimplemented")
    assert "'br'" in reply.json()["message"]
    code, message = refused(served_envd, f"{PROCESS}/Start", frame({}), connect_content_encoding="gzip")
    assert (code, "'gzip'" in message) == ("unimplemented", True)


@pytest.mark.parametrize("value", ["soon", "-1", "inf", "nan"])
def test_time_outs_that_are_none(value: str, served_envd: Any) -> None:
    request = frame({"process": {"cmd": "true"}})
    code, message = refused(served_envd, f"{PROCESS}/Start", request, connect_timeout_ms=value)
    assert (code, repr(value) in message) == ("invalid_argument", True)


@pytest.mark.parametrize("value", ["Basic !", "Basic", "Bearer x", "Basic /w==", "Basic Og=="])
def test_credentials_that_name_nobody_mean_the_default_user(value: str, served_envd: Any) -> None:
    reply = httpx.post(f"{served_envd.url}{FILESYSTEM}/Stat", json={"path": ""}, headers={"authorization": value})
    assert reply.json()["entry"]["path"] == str(served_envd.home)


class Cut:
    """A request that stops half-way: the head is sent, and a part of the body."""

    def __init__(self, served: Any, path: str, length: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", served.port), timeout=20)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+json\r\n"
        self.send(f"{head}Content-Length: {length}\r\n\r\n".encode())

    def send(self, content: bytes) -> None:
        self._connection.sendall(content)

    def reset(self) -> None:
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()


@pytest.mark.live
@pytest.mark.parametrize("half", [0, 1, 4, 5, 20])
def test_streamed_input_that_stops_half_way(
    half: int, sandbox: Sandbox, served_envd: Any, wait_until: Callable[..., None]
) -> None:
    """Complete messages arrive, an incomplete message does not, and the process and its input live on."""
    handle = sandbox.commands.run("cat > taken", background=True, stdin=True)
    whole = frame({"start": {"process": {"pid": handle.pid}}}) + frame({"data": {"input": {"stdin": "b25lLA=="}}})
    last = frame({"data": {"input": {"stdin": "bmV2ZXI="}}})
    cut = Cut(served_envd, f"{PROCESS}/StreamInput", 10_000)
    cut.send(whole + last[:half])
    taken = served_envd.home / "taken"
    wait_until(lambda: taken.exists() and taken.read_text() == "one,")
    cut.reset()
    sandbox.commands.stream_input(handle.pid, iter(["two"]))
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().exit_code == 0
    assert taken.read_text() == "one,two"


@pytest.mark.live
def test_streamed_input_for_a_process_that_ends_meanwhile(sandbox: Sandbox, served_envd: Any) -> None:
    handle = sandbox.commands.run("head -c 1 > /dev/null", background=True, stdin=True)
    pieces = [frame({"start": {"process": {"pid": handle.pid}}})]
    pieces += [frame({"data": {"input": {"stdin": "eHh4"}}})] * 2000

    def body() -> Any:
        yield b"".join(pieces[:2])
        assert handle.wait().exit_code == 0
        yield b"".join(pieces[2:])

    reply = httpx.post(f"{served_envd.url}{PROCESS}/StreamInput", content=body(), headers=STREAM, timeout=20)
    error = json.loads(reply.content[5:])["error"]
    assert error["code"] == "internal"
    assert error["message"].startswith("error writing to stdin: ")


@pytest.mark.live
@pytest.mark.parametrize("cut_at", range(0, 60, 7))
def test_a_start_that_stops_half_way_starts_nothing(cut_at: int, sandbox: Sandbox, served_envd: Any) -> None:
    body = frame({"process": {"cmd": "touch", "args": ["started"]}, "stdin": False})
    assert cut_at < len(body)
    cut = Cut(served_envd, f"{PROCESS}/Start", len(body))
    cut.send(body[:cut_at])
    cut.reset()
    assert sandbox.commands.run("echo next").stdout == "next\n"
    assert not (served_envd.home / "started").exists()


def test_a_folder_where_a_file_is_expected_and_the_other_way_round(served_envd: Any) -> None:
    home = served_envd.home
    (home / "folder").mkdir()
    (home / "file").touch()

    def rpc(method: str, **request: Any) -> tuple[str, str]:
        answer = httpx.post(f"{served_envd.url}{FILESYSTEM}/{method}", json=request).json()
        return answer["code"], answer["message"]

    assert rpc("ListDir", path="file") == ("invalid_argument", f"path is not a directory: {home}/file")
    assert rpc("MakeDir", path="file") == (
        "invalid_argument",
        f"path already exists but it is not a directory: {home}/file",
    )
    assert rpc("MakeDir", path="file/x") == (
        "internal",
        f"error getting file info: stat {home}/file/x: not a directory",
    )
    assert rpc("Move", source="folder", destination="file")[0] == "internal"
    assert rpc("Move", source="file", destination="folder")[0] == "internal"
    for reply, message in [
        (httpx.get(served_envd.url + "/files?path=folder"), f"path '{home}/folder' is a directory"),
        (
            httpx.post(served_envd.url + "/files?path=folder", files={"file": b"x"}),
            f"path is a directory: {home}/folder",
        ),
        (
            httpx.post(served_envd.url + "/files?path=folder/", files={"file": b"x"}),
            f"path is a directory: {home}/folder",
        ),
    ]:
        assert (reply.status_code, reply.json()["message"]) == (400, message)


def test_a_move_to_another_file_system_is_refused(served_envd: Any) -> None:
    home = served_envd.home
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if Path(elsewhere).stat().st_dev == home.stat().st_dev:
            pytest.skip("there is only one file system here")
        (home / "f").write_text("x")
        reply = httpx.post(f"{served_envd.url}{FILESYSTEM}/Move", json={"source": "f", "destination": f"{elsewhere}/f"})
        message = f"error renaming: rename {home}/f {elsewhere}/f: invalid cross-device link"
        assert reply.json() == {"code": "internal", "message": message}
        assert (home / "f").read_text() == "x"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/proc/self/mem", "error writing file: write /proc/self/mem: input/output error"),
        ("/proc/self/nosuch", "error opening file: open /proc/self/nosuch: no such file or directory"),
        ("/dev/full", "attempted to write 1 bytes: not enough disk space available"),
    ],
)
def test_files_of_the_kernel_are_refused_by_the_kernel(path: str, text: str, served_envd: Any) -> None:
    reply = httpx.post(served_envd.url + "/files", params={"path": path}, files={"file": b"x"})
    assert reply.json()["message"] == text


def test_a_path_through_a_link_that_may_not_be_read(remote: Sandbox) -> None:
    """The sandbox's programs may not follow links in ``/proc/1``."""
    if available_runtime() != "bubblewrap":
        pytest.skip("here it is the host's")
    for action in (lambda: remote.files.write("/proc/1/root/x", "1"), lambda: remote.files.read("/proc/1/root/x")):
        with pytest.raises(SandboxException, match=r"500: error opening file.*permission denied"):
            action()
    assert [entry.name for entry in remote.files.list("/proc/1", depth=1) if entry.name == "status"] == ["status"]


def test_what_may_not_be_read_or_written_is_named(locked: Any, served_envd: Any) -> None:
    path = f"{locked}/f"
    reply = httpx.get(served_envd.url + "/files", params={"path": path})
    message = f"error opening file '{path}': open {path}: permission denied"
    assert (reply.status_code, reply.json()["message"]) == (500, message)
    reply = httpx.post(served_envd.url + "/files", params={"path": path}, files={"file": b"x"})
    assert reply.status_code == 500
    assert "permission denied" in reply.json()["message"]
    for method in ("Stat", "MakeDir"):
        answer = httpx.post(f"{served_envd.url}{FILESYSTEM}/{method}", json={"path": path})
        assert answer.status_code == 500
        assert "permission denied" in answer.json()["message"]
    assert os.geteuid() != 0
