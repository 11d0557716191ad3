"""Applications below a private path that expect the prefix in requests, such as Vite with ``--base``."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from kruise_agents.protocol.addresses import SandboxTarget
from support.addresses import Shape, build
from support.managers import RunningManager, running_manager, wait_for

pytestmark = pytest.mark.live
Serve = Callable[[str], str]
PROGRAM = Path(__file__).parents[1] / "programs" / "based.py"


@pytest.fixture
def prefix(sandbox: Sandbox, port: int) -> str:
    return f"/kruise/{sandbox.sandbox_id}/{port}"


@pytest.fixture
def based(sandbox: Sandbox, prefix: str, serve: Serve) -> str:
    """URL of programs/based.py, running in the sandbox, which expects its prefix."""
    sandbox.files.write("base", prefix)
    return serve("based.py")


def seen(based: str) -> list[str]:
    """Return the requests that the application got since its start. The question itself does not count."""
    answer = httpx.get(f"{based}/seen")
    return list(answer.json()) if answer.status_code == 200 else []


@pytest.mark.parametrize("query", ["", "?x=1&y=%20"])
def test_the_root_is_served_and_all_paths_are_whole_from_then_on(query: str, based: str, prefix: str) -> None:
    answer = httpx.get(f"{based}/{query}")
    assert (answer.status_code, answer.text) == (200, f"page /{query}")
    assert httpx.get(f"{based}/app.js").text == "page /app.js"
    assert httpx.head(f"{based}/app.js").status_code == 200
    assert httpx.post(f"{based}/form", content=b"x=1").text == "page /form"
    assert seen(based)[-5:] == [
        f"GET /{query}",
        f"GET {prefix}/{query}",
        f"GET {prefix}/app.js",
        f"HEAD {prefix}/app.js",
        f"POST {prefix}/form",
    ]


def test_a_websocket_gets_the_whole_path_too(manager: RunningManager, based: str, prefix: str) -> None:
    assert handshake(manager, f"{prefix}/?token=1").startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{based}/").status_code == 200
    assert handshake(manager, f"{prefix}/?token=1").endswith(b"\r\n\r\nhello")


def handshake(manager: RunningManager, target: str) -> bytes:
    head = f"GET {target} HTTP/1.1\r\nHost: {manager.domain}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    with socket.create_connection(("127.0.0.1", manager.port), timeout=20) as connection:
        connection.sendall(head.encode())
        received = b""
        while (piece := connection.recv(65536)) and b"hello" not in received:
            received += piece
            if received.startswith(b"HTTP/1.1 400") and b"\r\n\r\n" in received:
                break
    return received


def test_an_address_without_the_last_slash_still_leads_to_the_one_with_it(based: str, prefix: str) -> None:
    for _ in range(2):  # before and after whole paths are known
        answer = httpx.get(based)
        assert (answer.status_code, answer.headers["location"]) == (302, f"{prefix}/")
        assert httpx.get(f"{based}/").text == "page /"


@pytest.mark.parametrize("path", ["/cookie", "/gone"])
def test_a_redirect_that_means_something_else_is_passed_on(path: str, based: str, prefix: str) -> None:
    """It brings a cookie with it, or the application has nothing at the whole path."""
    answer = httpx.get(f"{based}{path}")
    assert (answer.status_code, answer.headers["location"]) == (302, f"{prefix}{path}")
    assert answer.text == ("over there" if path == "/gone" else "")
    assert httpx.get(f"{based}/app.js").status_code == 404


def test_only_requests_that_can_be_repeated_are_repeated(based: str, prefix: str) -> None:
    assert httpx.post(f"{based}/", content=b"x").headers["location"] == f"{prefix}/"
    assert httpx.request("GET", f"{based}/", content=b"x").headers["location"] == f"{prefix}/"
    httpx.get(f"{based}/")
    assert seen(based)[-4:] == ["POST /", "GET /", "GET /", f"GET {prefix}/"]


def test_another_application_on_the_port_gets_its_paths_as_ever(sandbox: Sandbox, based: str, port: int) -> None:
    assert httpx.get(f"{based}/").status_code == 200
    sandbox.files.write("root/a.txt", "at the root")
    replace(sandbox, port, f"python -m http.server {port} --directory root")
    wait_for(lambda: httpx.get(f"{based}/a.txt").text == "at the root", 20, "the other application")


def test_a_closed_port_is_forgotten(sandbox: Sandbox, based: str, port: int, serve: Serve) -> None:
    assert httpx.get(f"{based}/").status_code == 200
    sandbox.commands.run(f"pkill -f 'based.p[y] {port}'")
    wait_for(lambda: httpx.get(f"{based}/").status_code == 502, 20, "the closed port")
    assert httpx.get(f"{serve('web.py')}/seen").json()["target"] == "/seen"


def replace(sandbox: Sandbox, port: int, command: str) -> None:
    """Run another program on the port, without a request in between that finds the port closed."""
    sandbox.commands.run(
        f"pkill -f 'based.p[y] {port}'; while curl -s localhost:{port} > /dev/null; do sleep 0.1; done"
    )
    sandbox.commands.run(f"exec {command}", background=True, timeout=0)
    sandbox.commands.run(f"until curl -s localhost:{port} > /dev/null; do sleep 0.1; done")


def test_native_hosts_have_no_prefix(manager: RunningManager, sandbox: Sandbox, based: str, port: int) -> None:
    wire = build(SandboxTarget(sandbox.sandbox_id, port, "/"), manager.domain, Shape.NATIVE)
    answer = httpx.get(f"http://{manager.domain}{wire.target}", headers={"Host": wire.authority})
    assert answer.status_code == 302
    assert httpx.get(f"{based}/app.js").status_code == 404


def test_a_manager_that_is_like_openkruise_finds_no_whole_paths(tmp_path: Path, port: int) -> None:
    with (
        running_manager(tmp_path, "--like", "openkruise") as manager,
        patch_e2b(False),
        Sandbox.create(domain=manager.domain, api_key=manager.api_key) as sandbox,
    ):
        prefix = f"/kruise/{sandbox.sandbox_id}/{port}"
        sandbox.files.write("base", prefix)
        sandbox.files.write("based.py", PROGRAM.read_text())
        sandbox.commands.run(f"exec python based.py {port}", background=True, timeout=0)
        url = f"http://{sandbox.get_host(port)}/"
        wait_for(lambda: httpx.get(url).status_code == 302, 20, "based.py listening")
        assert httpx.get(url).headers["location"] == f"{prefix}/"
