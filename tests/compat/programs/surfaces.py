"""Every surface of the SDK that is installed, used for real, sync and async.

usage: surfaces.py https|http

Runs in an environment of the matrix, with the domain and the key in its environment, and prints one JSON object:
mode -> {"results": surface -> "ok" or what went wrong, "addresses": surface -> requests that it must have sent}.
A surface that the release does not have is left out. One that the manager may refuse by name counts by its address.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import secrets
import socket
import ssl
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
from packaging.version import Version

from kruise_agents.patch_e2b import patch_e2b
from support.recorder import Answer, RecordedRequest, Recorder, TemplateBuilds

SCHEME = sys.argv[1]
patch_e2b(SCHEME == "https")

import e2b  # noqa: E402 - the order that users are shown

SDK: Any = e2b
if CODE_INTERPRETER := importlib.util.find_spec("e2b_code_interpreter") is not None:
    import e2b_code_interpreter

    SDK = e2b_code_interpreter

DESKTOP: Any = None
if importlib.util.find_spec("e2b_desktop") is not None:
    import e2b_desktop.main

    DESKTOP = e2b_desktop

RELEASE = Version(importlib.metadata.version("e2b"))
SERVERS = """
import base64, hashlib, threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

class Desktop(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path != "/websockify":
            return super().do_GET()
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.wfile.write(bytes([0x82, 12]) + b"RFB 003.008\\n")
        self.close_connection = True

handlers = {3000: SimpleHTTPRequestHandler, 50005: SimpleHTTPRequestHandler, 6080: Desktop}
servers = [ThreadingHTTPServer(("127.0.0.1", port), handler) for port, handler in handlers.items()]
threads = [threading.Thread(target=server.serve_forever) for server in servers]
for thread in threads: thread.start()
"""
UPLOAD_TARGET = "/bucket/a%20b/c.tar.gz?X-Amz-Signature=0%2F1%2B2%3D&X-Amz-Date=20260101T000000Z&x=%7E"


class Walk:
    """The way of one mode, sync or async, through the surfaces: the classes, the sandbox and the results."""

    def __init__(self, asynchronous: bool) -> None:
        self.prefix = "Async" if asynchronous else ""
        self.mark = f"{'async' if asynchronous else 'sync'}-{SCHEME}-{os.getpid()}"
        self.results: dict[str, str] = {}
        self.addresses: dict[str, list[str]] = {}
        self.sbx: Any = None

    def cls(self, name: str, owner: Any = None) -> Any:
        """``Sandbox``, ``Volume`` ... of this mode."""
        owner = owner or (SDK if name == "Sandbox" else e2b)
        return getattr(owner, self.prefix + name)

    async def send(self, surface: str, request: str, value: Callable[[], Any], refusals: str = "not supported") -> None:
        """Make a call that the manager may refuse, and note the address that its request is expected to go to.

        Args:
            refusals: a regular expression for words of expected refusals.
        """
        self.addresses.setdefault(surface, []).append(request)
        try:
            await done(value())
        except Exception as error:
            if not re.search(rf"\b({refusals})\b", str(error)):
                raise


SURFACES: list[tuple[str, Version, Callable[[Walk], Awaitable[None]]]] = []


def surface(name: str, since: str = "2.8.0", when: bool = True) -> Callable[[Any], Any]:
    """Note a function as the check of a surface."""

    def note(check: Any) -> Any:
        if when and Version(since) <= RELEASE:
            SURFACES.append((name, Version(since), check))
        return check

    return note


@surface("files")
async def files(walk: Walk) -> None:
    await done(walk.sbx.files.write("www/page.txt", "written by the SDK"))
    await done(walk.sbx.files.write("www/mcp", "the MCP server"))
    await done(walk.sbx.files.write("www/vnc.html", "the page of the desktop"))
    await done(walk.sbx.files.write("www/serve.py", SERVERS))
    expect(await done(walk.sbx.files.read("www/page.txt")), "written by the SDK")
    names = sorted(entry.name for entry in await done(walk.sbx.files.list("www")))
    expect(names, ["mcp", "page.txt", "serve.py", "vnc.html"])
    expect(await done(walk.sbx.files.exists("www/none")), False)


@surface("commands")
async def commands(walk: Walk) -> None:
    result = await done(walk.sbx.commands.run("echo $GREETING", envs={"GREETING": "hello"}))
    expect((result.stdout, result.exit_code), ("hello\n", 0))
    await done(walk.sbx.commands.run("cd www && exec python3 serve.py", background=True))


@surface("run_code", when=CODE_INTERPRETER)
async def run_code(walk: Walk) -> None:
    execution = await done(walk.sbx.run_code("x = 40\nprint('hello world')\nx + 2"))
    expect((execution.text, execution.logs.stdout), ("42", ["hello world\n"]))


@surface("get_host")
async def get_host(walk: Walk) -> None:
    page = await eventually(f"{SCHEME}://{walk.sbx.get_host(3000)}/page.txt")
    expect(page.text, "written by the SDK")


@surface("get_mcp_url")
async def get_mcp_url(walk: Walk) -> None:
    expect((await eventually(walk.sbx.get_mcp_url())).text, "the MCP server")


@surface("desktop stream", when=DESKTOP is not None)
async def desktop_stream(walk: Walk) -> None:
    """Use the page of a desktop and the page's WebSocket. The desktop has only a sync class."""
    url = DESKTOP.main._VNCServer(DESKTOP.Sandbox.connect(walk.sbx.sandbox_id)).get_url()
    expect((await eventually(url)).text, "the page of the desktop")
    expect(first_words_of_socket(url), b"RFB 003.008\n")


@surface("download_url")
async def download_url(walk: Walk) -> None:
    answer = httpx.get(await done(walk.sbx.download_url("www/page.txt", use_signature_expiration=60)))
    expect((answer.status_code, answer.text), (200, "written by the SDK"))
    expect(httpx.get(answer.url.copy_remove_param("signature")).status_code, 401)


@surface("upload_url")
async def upload_url(walk: Walk) -> None:
    url = await done(walk.sbx.upload_url("uploaded.txt"))
    expect(httpx.post(url, files={"file": b"by URL"}).status_code, 200)
    expect(await done(walk.sbx.files.read("uploaded.txt")), "by URL")


@surface("API")
async def api(walk: Walk) -> None:
    sandboxes = walk.cls("Sandbox")
    identifier = walk.sbx.sandbox_id
    listed = await done(sandboxes.list(query=e2b.SandboxQuery(metadata={"walk": walk.mark})).next_items())
    expect([one.sandbox_id for one in listed], [identifier])
    expect((await done(walk.sbx.get_info())).metadata, {"walk": walk.mark})
    expect((await done(sandboxes.get_info(identifier))).sandbox_id, identifier)
    await done(walk.sbx.set_timeout(120))
    await done(sandboxes.set_timeout(identifier, 180))
    expect(await done(walk.sbx.is_running()), True)
    now, minute = datetime.now(UTC), timedelta(minutes=1)
    (sample, *_) = await done(walk.sbx.get_metrics(start=now - minute, end=now + minute))
    expect(0 < sample.mem_used < sample.mem_total and sample.cpu_count >= 1, True)
    expect(await done(sandboxes.get_metrics(identifier, start=now - 3 * minute, end=now - 2 * minute)), [])


@surface("connect")
async def connect(walk: Walk) -> None:
    again = await done(walk.cls("Sandbox").connect(walk.sbx.sandbox_id))
    await use_again(walk, again)
    await use_again(walk, await done(again.connect()))


@surface("templates")
async def templates(walk: Walk) -> None:
    template = walk.cls("Template")
    build = template(file_context_path=tempfile.gettempdir()).from_base_image()
    await walk.send("templates", "POST /kruise/api/v3/templates", lambda: template.build_in_background(build, "matrix"))
    if hasattr(template, "alias_exists"):
        expect(await done(template.alias_exists("code-interpreter")), True)


@surface("upload of a build", when=SCHEME == "http")
async def upload_of_a_build(walk: Walk) -> None:
    """Check that a file goes to the URL that the server gave, which is outside of the manager, without a key."""
    template = walk.cls("Template")
    with (
        tempfile.TemporaryDirectory() as folder,
        _Store() as store,
        TemplateBuilds(upload_url=f"http://{store.domain}{UPLOAD_TARGET}") as builder,
    ):
        Path(folder, "a.txt").write_text("content")
        build = template(file_context_path=folder).from_base_image().copy("a.txt", "/a.txt")
        options = {"domain": builder.domain, "api_key": os.environ["E2B_API_KEY"]}
        await done(template.build_in_background(build, "matrix", **options))
    expect([(one.method, one.target) for one in store.requests], [("PUT", UPLOAD_TARGET)])
    expect([{"x-api-key", "authorization"} & set(one.headers) for one in store.requests], [set()])
    expect([target for target in builder.targets if not target.startswith("/kruise/api/")], [])


@surface("pause")
async def pause(walk: Walk) -> None:
    """Under its old name and its new one; ``connect`` is what resumes."""
    for name in ("pause", "beta_pause"):
        if not hasattr(walk.sbx, name):
            continue
        await done(walk.sbx.files.write("kept.txt", name))
        await done(getattr(walk.sbx, name)())
        expect(await done(walk.sbx.is_running()), False)
        again = await done(walk.cls("Sandbox").connect(walk.sbx.sandbox_id))
        await use_again(walk, again)
        expect(await done(walk.sbx.files.read("kept.txt")), name)


@surface("snapshots", "2.14.0")
async def snapshots(walk: Walk) -> None:
    await done(walk.sbx.files.write("kept.txt", "in the snapshot"))
    snapshot = await done(walk.sbx.create_snapshot())
    sandboxes = walk.cls("Sandbox")
    other = await done(sandboxes.create(template=snapshot.snapshot_id))
    expect(await done(other.files.read("kept.txt")), "in the snapshot")
    await done(other.kill())
    listed = await done(walk.sbx.list_snapshots().next_items())
    expect([one.snapshot_id for one in listed], [snapshot.snapshot_id])
    expect(await done(sandboxes.delete_snapshot(snapshot.snapshot_id)), True)
    expect(await done(sandboxes.delete_snapshot(snapshot.snapshot_id)), False)


@surface("fork", "2.34.0")
async def fork(walk: Walk) -> None:
    await done(walk.sbx.files.write("kept.txt", "in the fork"))
    (other,) = await done(walk.sbx.fork(timeout=60))
    expect(await done(other.files.read("kept.txt")), "in the fork")
    await done(other.kill())


@surface("volumes", "2.19.0")
async def volumes(walk: Walk) -> None:
    volume = walk.cls("Volume")
    name = f"matrix-{uuid.uuid4()}"
    await walk.send("volumes", "POST /kruise/api/volumes", lambda: volume.create(name))
    await walk.send("volumes", "GET /kruise/api/volumes", volume.list)
    (made,) = [one for one in await done(volume.list()) if one.name == name]
    contents = await done(volume.connect(made.volume_id))
    await done(contents.write_file("/folder/a", "text", force=True))
    expect(await done(contents.read_file("/folder/a")), "text")
    expect([entry.path for entry in await done(contents.list("/", depth=2))], ["/folder", "/folder/a"])
    expect(await done(volume.destroy(made.volume_id)), True)


@surface("volume contents", "2.19.0")
async def volume_contents(walk: Walk) -> None:
    volume = walk.cls("Volume")("no-such-volume", "matrix", "token")
    request = "PUT /kruise/api/volumecontent/no-such-volume/file"
    await walk.send("volume contents", request, lambda: volume.write_file("/a", "text"), "not supported|401|404")


@surface("secrets", "2.43.0")
async def secret(walk: Walk) -> None:
    await walk.send("secrets", "GET /kruise/api/secrets", lambda: walk.cls("Secret").list().next_items())


@surface("E2B client", "2.44.0")
async def client_of_e2b(walk: Walk) -> None:
    await use_client(walk, "E2B client", e2b)


def of_its_own(package: Any) -> bool:
    """Return True if a package has its own ``E2B``. A star import gives earlier packages the ``E2B`` of e2b."""
    return getattr(package, "E2B", None) not in (None, getattr(e2b, "E2B", None))


@surface("E2B client of the code interpreter", "2.44.0", CODE_INTERPRETER and of_its_own(SDK))
async def client_of_the_code_interpreter(walk: Walk) -> None:
    await use_client(walk, "E2B client of the code interpreter", SDK)


@surface("E2B client of the desktop", "2.44.0", DESKTOP is not None and of_its_own(DESKTOP))
async def client_of_the_desktop(walk: Walk) -> None:
    await use_client(walk, "E2B client of the desktop", DESKTOP)


async def use_client(walk: Walk, name: str, package: Any) -> None:
    """Check that the classes of a client use the client's domain, whatever the environment says."""
    client = package.E2B(domain=os.environ["E2B_DOMAIN"], api_key=os.environ["E2B_API_KEY"])
    sandboxes = client.Sandbox if package is DESKTOP else walk.cls("Sandbox", client)
    domain = os.environ.pop("E2B_DOMAIN")
    try:
        again = await done(sandboxes.connect(walk.sbx.sandbox_id))
        expect(await done(again.files.read("www/page.txt")), "written by the SDK")
        expect((await done(again.commands.run("echo on"))).stdout, "on\n")
        if hasattr(again, "run_code"):
            expect((await done(again.run_code("x"))).text, "40")
        expect(await done(walk.cls("Template", client).alias_exists("code-interpreter")), True)
        volume, secret = walk.cls("Volume", client), walk.cls("Secret", client)
        await walk.send(name, "GET /kruise/api/volumes", volume.list)
        await walk.send(name, "GET /kruise/api/secrets", lambda: secret.list().next_items())
    finally:
        os.environ["E2B_DOMAIN"] = domain


async def use_again(walk: Walk, again: Any) -> None:
    """Check that an object made from an ID reaches the same services as the first object."""
    expect(await done(again.files.read("www/page.txt")), "written by the SDK")
    expect((await done(again.commands.run("echo on"))).stdout, "on\n")
    expect(again.get_host(3000), walk.sbx.get_host(3000))
    expect(httpx.get(await done(again.download_url("www/page.txt"))).status_code, 200)
    if hasattr(again, "run_code"):
        expect((await done(again.run_code("x"))).text, "40")


def first_words_of_socket(url: str) -> bytes:
    """Open the WebSocket that noVNC's page opens for this URL, and return the first bytes that arrive."""
    query = dict(parse_qsl(urlsplit(url).query))
    address = (query["host"], int(query["port"]))
    head = [
        f"GET /{query['path']} HTTP/1.1",
        f"Host: {query['host']}:{query['port']}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(secrets.token_bytes(16)).decode()}",
    ]
    with socket.create_connection(address, timeout=30) as plain:
        encrypted = query["encrypt"] == "1"
        connection = ssl.create_default_context().wrap_socket(plain, server_hostname=address[0]) if encrypted else plain
        with connection, connection.makefile("rwb") as stream:
            stream.write("\r\n".join([*head, "", ""]).encode())
            stream.flush()
            first = stream.readline()
            if b" 101 " not in first:
                raise AssertionError(f"the WebSocket was refused: {first!r}")
            while stream.readline() != b"\r\n":
                pass
            return stream.read(14)[2:]


class _Store(Recorder):
    """A server that accepts uploads and keeps them."""

    def respond(self, request: RecordedRequest) -> Answer:
        return Answer(200)


async def done(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def eventually(url: str) -> httpx.Response:
    """Ask until a server that was just started answers."""
    deadline = time.monotonic() + 30
    while (answer := httpx.get(url)).status_code != 200:
        if time.monotonic() > deadline:
            raise AssertionError(f"never answered: {answer.status_code} {answer.text}")
        await asyncio.sleep(0.05)
    return answer


def expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise AssertionError(f"found {found!r}, wanted {wanted!r}")


async def walk_through(asynchronous: bool) -> dict[str, Any]:
    walk = Walk(asynchronous)
    try:
        walk.sbx = await done(walk.cls("Sandbox").create(metadata={"walk": walk.mark}, timeout=170))
    except Exception:
        return {"results": {"create": reason()}, "addresses": {}}
    walk.results["create"] = "ok"
    for name, _, check in SURFACES:
        try:
            await check(walk)
            walk.results[name] = "ok"
        except Exception:
            walk.results[name] = reason()
    try:
        expect(await done(walk.sbx.kill()), True)
        expect(await done(walk.sbx.is_running()), False)
        walk.results["kill"] = "ok"
    except Exception:
        walk.results["kill"] = reason()
    return {"results": walk.results, "addresses": walk.addresses}


def reason() -> str:
    """Return the exception that is being handled, and the line of this file that caused the exception."""
    _, error, trace = sys.exc_info()
    lines = [frame.lineno for frame in traceback.extract_tb(trace) if frame.filename == __file__]
    return f"{type(error).__name__}: {error} (line {lines[-1] if lines else '?'})"


if __name__ == "__main__":
    found = {mode: asyncio.run(walk_through(mode == "async")) for mode in ("sync", "async")}
    print(json.dumps(found), flush=True)
    # pyqwest now and then aborts the interpreter while it shuts down after asynchronous calls over TLS, also without
    # the patch. Everything was checked before.
    os._exit(0)
