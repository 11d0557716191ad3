"""The data plane: every shape of address, streams both ways, and what a client sees when something is missing."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from e2b_code_interpreter import Sandbox
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from kruise_agents.protocol.addresses import SandboxTarget
from support.addresses import Shape, build
from support.managers import RunningManager, running_manager, wait_for

pytestmark = pytest.mark.live
CHAT = Subprotocol("chat")
Serve = Callable[[str], str]


@pytest.mark.parametrize("shape", list(Shape))
def test_every_shape_reaches_the_same_port_with_the_path_untouched(
    shape: Shape, manager: RunningManager, sandbox: Sandbox, web: str, port: int
) -> None:
    path = "/a%2Fb/..//c?x=1&y=%20"
    wire = build(SandboxTarget(sandbox.sandbox_id, port, path), manager.domain, shape)
    status, _, body = raw_request(manager, f"GET {wire.target} HTTP/1.1", Host=wire.authority, **dict(wire.headers))
    assert status == 200
    seen = json.loads(body)
    assert seen["target"] == path
    assert ["host", wire.authority] in seen["headers"]


def test_a_private_path_without_a_slash_reaches_the_root(manager: RunningManager, sandbox: Sandbox, web: str) -> None:
    answer = httpx.get(f"{web}?x=1")
    assert answer.json()["target"] == "/?x=1"


def test_headers_that_belong_to_one_connection_do_not_travel(web: str) -> None:
    sent = {"Connection": "close, X-Private", "X-Private": "1", "TE": "trailers", "Upgrade": "h2c", "X-Kept": "yes"}
    names = {name.lower() for name, _ in httpx.get(web, headers=sent).json()["headers"]}
    assert "x-kept" in names
    assert names.isdisjoint({"x-private", "te", "upgrade"})


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PATCH", "DELETE"])
def test_any_method_is_passed_on(method: str, web: str) -> None:
    answer = httpx.request(method, f"{web}/seen")
    assert answer.status_code == 200
    if method != "HEAD":
        assert answer.json()["method"] == method


def test_a_large_upload_and_download_leave_the_manager_flat(manager: RunningManager, web: str) -> None:
    megabytes = 192
    chunk = b"u" * (1 << 20)
    httpx.get(f"{web}/megabytes?8")
    before = resident_kilobytes(manager)

    def body() -> Iterator[bytes]:
        for _ in range(megabytes):
            yield chunk

    uploaded = httpx.post(f"{web}/upload", content=body(), timeout=60).json()
    assert uploaded["chunked"] is True
    assert uploaded["size"] == megabytes << 20
    assert uploaded["sha256"] == hashlib.sha256(chunk * megabytes).hexdigest()

    received = 0
    with httpx.stream("GET", f"{web}/megabytes?{megabytes}", timeout=60) as answer:
        for piece in answer.iter_raw():
            received += len(piece)
    assert received == megabytes << 20
    assert resident_kilobytes(manager) - before < 48 * 1024


def test_a_body_with_a_length_keeps_its_length(web: str) -> None:
    answer = httpx.put(f"{web}/upload", content=b"twelve bytes").json()
    assert (answer["size"], answer["chunked"]) == (12, False)


def test_a_response_arrives_piece_by_piece(sandbox: Sandbox, web: str) -> None:
    with httpx.stream("GET", f"{web}/drip", timeout=20) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"first"  # the server waits for the file before it sends more
        sandbox.files.write("go", "")
        assert b"".join(pieces) == b"second"


def test_a_request_body_arrives_before_it_is_complete(sandbox: Sandbox, web: str) -> None:
    def body() -> Iterator[bytes]:
        yield b"first"
        wait_for(lambda: sandbox.files.exists("first-bytes"), what="the first bytes in the sandbox")
        yield b"second"

    assert httpx.post(f"{web}/first-bytes", content=body()).json()["size"] == 11


def test_an_upload_that_is_cut_off_half_way_leaves_no_file_and_the_old_one_as_it_was(
    sandbox: Sandbox, manager: RunningManager
) -> None:
    sandbox.files.write("old.txt", "as it was")
    for name in ("new.txt", "old.txt"):
        url = httpx.URL(sandbox.upload_url(name))
        head = f"POST {url.raw_path.decode()} HTTP/1.1\r\nHost: {manager.domain}\r\n"
        head += "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n"
        part = '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        with socket.create_connection(("127.0.0.1", manager.port), timeout=20) as connection:
            connection.sendall((head + part + "half of it").encode())
    # What came in one connection is handled before what comes in a later one is answered.
    sandbox.files.write("marker.txt", "")
    assert sandbox.files.exists("new.txt") is False
    assert sandbox.files.read("old.txt") == "as it was"


def test_a_client_that_leaves_is_noticed_in_the_sandbox(sandbox: Sandbox, web: str) -> None:
    with httpx.stream("GET", f"{web}/endless", timeout=20) as answer:
        next(answer.iter_raw())
    wait_for(lambda: sandbox.files.exists("gone"), what="the end of the connection in the sandbox")


def test_a_response_that_breaks_off_breaks_off_for_the_client_too(web: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{web}/cut")


def test_a_kill_cuts_running_streams_and_the_next_request_finds_no_sandbox(sandbox: Sandbox, web: str) -> None:
    with httpx.stream("GET", f"{web}/drip", timeout=20) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"first"
        assert sandbox.kill() is True
        with pytest.raises(httpx.RemoteProtocolError):
            next(pieces)
    after = httpx.get(web)
    assert (after.status_code, after.json()["message"]) == (502, "The sandbox was not found")
    assert sandbox.is_running() is False


def test_an_unknown_sandbox_is_a_502_that_the_sdk_understands(manager: RunningManager) -> None:
    answer = httpx.get(manager.sandbox_url("inobody", 49983) + "/health")
    assert answer.status_code == 502
    assert answer.json() == {
        "sandboxId": "inobody",
        "message": "The sandbox was not found",
        "code": 502,
        "request_id": answer.headers["x-request-id"],
    }


def test_a_closed_port_is_a_502_that_names_the_port(manager: RunningManager, sandbox: Sandbox, port: int) -> None:
    answer = httpx.get(manager.sandbox_url(sandbox.sandbox_id, port))
    assert answer.status_code == 502
    assert answer.json() == {
        "sandboxId": sandbox.sandbox_id,
        "message": "The sandbox is running but port is not open",
        "port": port,
        "code": 502,
        "request_id": answer.headers["x-request-id"],
    }


def test_a_port_that_speaks_no_http_is_a_502_that_says_so(sandbox: Sandbox, manager: RunningManager, port: int) -> None:
    program = f"import socket; s = socket.create_server(('127.0.0.1', {port})); print('up', flush=True)\n"
    program += "while True:\n  c, _ = s.accept(); c.sendall(b'220 mail ready\\r\\n'); c.recv(1000); c.close()"
    sandbox.files.write("mail.py", program)
    sandbox.commands.run("exec python mail.py > mail.log", background=True)
    wait_for(lambda: sandbox.files.exists("mail.log") and "up" in sandbox.files.read("mail.log"))
    answer = httpx.get(manager.sandbox_url(sandbox.sandbox_id, port))
    assert answer.status_code == 502
    assert "did not answer as an HTTP server" in answer.json()["message"]


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("/kruise/sb1/abc/x", 500, "API Error: failed to map request to sandbox, URL=http://{host}/kruise/sb1/abc/x"),
        ("/kruise", 500, "API Error: failed to map request to sandbox, URL=http://{host}/kruise"),
        ("/sandboxes", 500, "API Error: failed to map request to sandbox, URL=http://{host}/sandboxes"),
        ("/kruise/sb1/65536/x", 400, "API Error: invalid sandbox port: 65536"),
        ("/kruise/sb1/0/x", 400, "API Error: invalid sandbox port: 0"),
    ],
)
def test_a_path_that_maps_to_nothing_says_so(target: str, status: int, text: str, manager: RunningManager) -> None:
    answer = httpx.get(f"http://{manager.domain}{target}")
    assert (answer.status_code, answer.text.splitlines()[0]) == (status, text.format(host=manager.domain))
    assert (status == 500) == ("Append a path to get_host(port)" in answer.text)


def test_routes_of_envd_for_the_manager_are_closed_from_outside(sandbox: Sandbox, manager: RunningManager) -> None:
    answer = httpx.post(manager.sandbox_url(sandbox.sandbox_id, 49983) + "/init", json={"accessToken": "mine"})
    assert answer.status_code == 404
    assert "reserved for the E2B control plane" in answer.json()["message"]


def test_redirects_and_cookies_stay_below_the_prefix(sandbox: Sandbox, web: str, port: int) -> None:
    answer = httpx.get(f"{web}/redirect")
    prefix = f"/kruise/{sandbox.sandbox_id}/{port}"
    assert answer.headers["location"] == f"{prefix}/login?next=/"
    assert answer.headers["set-cookie"] == f"session=1; Path={prefix}/; HttpOnly"


def test_redirects_and_cookies_are_untouched_on_native_hosts(
    manager: RunningManager, sandbox: Sandbox, web: str, port: int
) -> None:
    wire = build(SandboxTarget(sandbox.sandbox_id, port, "/redirect"), "d.example", Shape.NATIVE)
    _, headers, _ = raw_request(manager, f"GET {wire.target} HTTP/1.1", Host=wire.authority)
    assert headers["location"] == "/login?next=/"
    assert headers["set-cookie"] == "session=1; Path=/; HttpOnly"


def test_an_oversized_header_is_refused_with_a_text(manager: RunningManager) -> None:
    answer = httpx.get(f"{manager.api_url}/v2/sandboxes", headers={"X-Large": "x" * 70_000})
    assert answer.status_code == 431
    assert answer.text == "the request line and headers are larger than 65536 bytes together"


def test_a_head_that_never_ends_is_refused(manager: RunningManager) -> None:
    with socket.create_connection(("127.0.0.1", manager.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX-Large: ")
        answer = b""
        try:
            for _ in range(100):
                connection.sendall(b"x" * 4096)
            answer = connection.recv(4096)
        except ConnectionError:
            answer = answer or b"HTTP/1.1 431 (connection cut before it could be read)"
    assert answer.startswith(b"HTTP/1.1 431")


def test_what_is_no_http_is_refused_with_a_text(manager: RunningManager) -> None:
    with socket.create_connection(("127.0.0.1", manager.port), timeout=20) as connection:
        connection.sendall(b"\x15\x03\x01\x02\x00\x01\x00\r\n\r\n")
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.endswith(b"this is not a well-formed HTTP/1.1 request")


def test_naming_content_length_in_connection_does_not_drop_the_body(web: str) -> None:
    headers = {"Connection": "close, content-length, host"}
    answer = httpx.post(f"{web}/upload", content=b"hello", headers=headers)
    assert (answer.status_code, answer.json()["size"]) == (200, 5)


@pytest.mark.parametrize("count", [0, 2])
def test_a_request_needs_exactly_one_host(count: int, manager: RunningManager) -> None:
    hosts = "\r\nHost: a" * count
    status, _, body = raw_request(manager, f"GET /kruise/sb1/3000/ HTTP/1.1{hosts}")
    assert status == 400
    assert body.decode() == f"API Error: a request needs one Host header, this one has {count}"


def test_a_304_with_a_length_keeps_the_connection_usable(web: str) -> None:
    with httpx.Client() as client:
        assert client.get(f"{web}/not_modified").status_code == 304
        assert client.get(f"{web}/seen").status_code == 200


@pytest.mark.parametrize("status", [600, 999])
def test_a_status_that_does_not_exist_is_a_502_that_names_it(status: int, web: str) -> None:
    answer = httpx.get(f"{web}/status?{status}")
    assert answer.status_code == 502
    assert f"it answered with the status {status}" in answer.json()["message"]


def test_chunks_win_over_a_length_in_the_same_response(web: str) -> None:
    assert httpx.get(f"{web}/both_framings").text == "hello world"


def test_a_large_response_head_passes(web: str) -> None:
    answer = httpx.get(f"{web}/large_head")
    assert (answer.text, len(answer.headers["x-large-29"])) == ("ok", 3000)


def test_a_burst_of_connections_is_answered_truly(manager: RunningManager, sandbox: Sandbox, port: int) -> None:
    url = manager.sandbox_url(sandbox.sandbox_id, port)

    async def burst() -> list[str]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            answers = await asyncio.gather(*(client.get(url) for _ in range(300)))
        return [answer.json()["message"] for answer in answers]

    assert set(asyncio.run(burst())) == {"The sandbox is running but port is not open"}


class TestWebSocket:
    @pytest.fixture
    def url(self, sandbox: Sandbox, serve: Serve) -> str:
        return serve("ws.py").replace("http://", "ws://")

    def test_messages_headers_and_subprotocol_pass(self, url: str) -> None:
        with connect(f"{url}/chat?x=1", additional_headers={"X-Mark": "m"}, subprotocols=[CHAT]) as client:
            assert client.recv() == "/chat?x=1 m chat"
            client.send("text ✓")
            assert client.recv() == "text ✓"
            client.send(b"\x00\xff" * 300_000)
            assert client.recv() == b"\x00\xff" * 300_000

    def test_the_close_code_and_reason_of_the_application_reach_the_client(self, url: str) -> None:
        with connect(url, subprotocols=[CHAT]) as client:
            client.recv()
            client.send("close")
            with pytest.raises(ConnectionClosedError) as closed:
                client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4321, "as asked")

    def test_a_refused_handshake_reaches_the_client_as_it_is(self, url: str) -> None:
        with pytest.raises(InvalidStatus) as refused, connect(f"{url}/forbidden"):
            pass
        assert refused.value.response.status_code == 403
        assert refused.value.response.body == b"not you\n"

    def test_headers_of_the_applications_handshake_reach_the_client(self, url: str) -> None:
        with connect(url, subprotocols=[CHAT]) as client:
            assert client.response is not None
            assert client.response.headers["X-App"] == "mine"

    def test_a_redirect_of_the_handshake_stays_below_the_prefix(self, url: str, sandbox: Sandbox, port: int) -> None:
        target = httpx.URL(url.replace("ws://", "http://"))
        request = "GET {path}/redirect HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        request += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        with socket.create_connection(("127.0.0.1", target.port or 80), timeout=20) as connection:
            connection.sendall(request.format(path=target.path, host=target.netloc.decode()).encode())
            answer = connection.recv(4096).decode()
        assert answer.startswith("HTTP/1.1 302")
        assert f"location: /kruise/{sandbox.sandbox_id}/{port}/elsewhere" in answer.lower()

    def test_a_message_of_many_megabytes_passes_both_ways(self, url: str) -> None:
        message = b"m" * (20 << 20)
        with connect(url, subprotocols=[CHAT], max_size=None) as client:
            client.recv()
            client.send(message)
            assert client.recv() == message

    @pytest.mark.parametrize("headers", [{"Cookie": "q" * 70_000}, {f"X-{n}": "1" for n in range(300)}])
    def test_a_handshake_that_is_too_large_is_refused_with_a_text(self, url: str, headers: dict[str, str]) -> None:
        with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers=headers):
            pass
        assert refused.value.response.status_code == 431
        assert b"the request" in (refused.value.response.body or b"")

    def test_what_is_too_large_for_the_application_is_refused_by_the_application(self, url: str) -> None:
        with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers={"Cookie": "q" * 10_000}):
            pass
        assert refused.value.response.status_code == 431
        assert b"Failed to open a WebSocket connection" in (refused.value.response.body or b"")

    def test_an_unknown_sandbox_refuses_the_handshake(self, manager: RunningManager) -> None:
        url = manager.sandbox_url("inobody", 3000).replace("http://", "ws://")
        with pytest.raises(InvalidStatus) as refused, connect(url):
            pass
        assert refused.value.response.status_code == 502

    def test_a_kill_closes_the_connection(self, url: str, sandbox: Sandbox) -> None:
        with connect(url, subprotocols=[CHAT]) as client:
            client.recv()
            sandbox.kill()
            with pytest.raises(ConnectionClosedError):
                client.recv()


def test_a_kill_closes_a_websocket_over_tls_too(tmp_path: Path, port: int) -> None:
    with served_over_tls(tmp_path, "ws.py", port) as (manager, api, sandbox_id, context):
        url = manager.sandbox_url(sandbox_id, port)
        with connect(url.replace("https://", "wss://"), ssl=context, subprotocols=[CHAT]) as client:
            client.recv()
            client.send("over TLS")
            assert client.recv() == "over TLS"
            assert api.delete(f"/sandboxes/{sandbox_id}").status_code == 204
            with pytest.raises(ConnectionClosedError):
                client.recv(timeout=5)


def test_an_application_that_believes_in_http_redirects_within_tls(tmp_path: Path, port: int) -> None:
    with served_over_tls(tmp_path, "slashes.py", port) as (manager, api, sandbox_id, _):
        routing = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(port)}
        native = {"Host": f"{port}-{sandbox_id}.{manager.domain}"}
        bare = f"https://{manager.domain}"
        for url, headers in ((manager.sandbox_url(sandbox_id, port), {}), (bare, routing), (bare, native)):
            answer = api.get(f"{url}/items?a=1", headers=headers)
            assert (answer.status_code, answer.headers["location"]) == (307, f"{url.removeprefix(bare)}/items/?a=1")
            assert api.get(f"{url}/items", headers=headers, follow_redirects=True).text == "items over http"


@contextlib.contextmanager
def served_over_tls(
    folder: Path, name: str, port: int
) -> Iterator[tuple[RunningManager, httpx.Client, str, ssl.SSLContext]]:
    """Run one of programs/ on ``port`` in a sandbox of a manager with TLS, until it listens."""
    with running_manager(folder, "--tls") as manager:
        context = ssl.create_default_context(cafile=str(manager.state_dir / "tls" / "ca.pem"))
        with manager.api(verify=context) as api:
            sandbox_id = api.post("/sandboxes", json={"templateID": "base", "secure": False}).json()["sandboxID"]
            envd = f"{manager.sandbox_url(sandbox_id, 49983)}"
            program = (Path(__file__).parents[1] / "programs" / name).read_text()
            api.post(f"{envd}/files?path={name}", files={"file": program}).raise_for_status()
            body = json.dumps({"process": {"cmd": "python", "args": [name, str(port)]}}).encode()
            framed = b"\0" + len(body).to_bytes(4, "big") + body
            headers = {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}
            with api.stream("POST", f"{envd}/process.Process/Start", content=framed, headers=headers):
                url = manager.sandbox_url(sandbox_id, port)
                wait_for(lambda: api.get(f"{url}/ready").status_code != 502, 20, f"{name} listening")
                yield manager, api, sandbox_id, context


def raw_request(manager: RunningManager, request_line: str, **headers: str) -> tuple[int, httpx.Headers, bytes]:
    """Send a request whose target and headers no client library changes, and return status, headers and body."""
    lines = [request_line, *(f"{name}: {value}" for name, value in headers.items()), "Connection: close", "", ""]
    with socket.create_connection(("127.0.0.1", manager.port), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        data = b""
        while piece := connection.recv(65536):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    status_line, *header_lines = head.decode("latin-1").split("\r\n")
    parsed = httpx.Headers([(name, value) for name, _, value in (line.partition(": ") for line in header_lines)])
    return int(status_line.split()[1]), parsed, body


def resident_kilobytes(manager: RunningManager) -> int:
    for line in Path(f"/proc/{manager.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS line")
