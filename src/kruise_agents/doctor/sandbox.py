"""Checks with one real sandbox, through the patched SDK: made only when asked, and killed at the end."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import os
import re
import secrets
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from ..client.seams import CODE_INTERPRETER
from ..patch_e2b import OlderManagerWarning, SandboxIdWarning, ServerDomainWarning, UntestedSDKWarning, patch_e2b
from ..probe import Look, look_at
from ..protocol.addresses import API_PREFIX, sandbox_prefix
from ..protocol.names import API_KEY_HEADER, CODE_INTERPRETER_PORT, ENVD_PORT
from .checks import Checks, Finding, Group, broken, fine, skipped, warning
from .manager import domain_of_answer, wanted_template
from .sdk import release
from .world import LIST, World

CHECKS = Checks(Group.SANDBOX)

_LIFETIME = 60
"""Seconds after which the manager ends the sandbox by itself. OpenKruise's manager permits no fewer than 30."""
_PATIENCE = 10.0
_OK, _SWITCHING = 200, 101
_MARK = "kruise-agents-doctor"
_FILE = "/tmp/kruise-agents-doctor"  # noqa: S108 - in the sandbox
_UPLOAD = 3_000_000
"""Bytes: more than the body that ingress-nginx passes by default (1 MB)."""
_STATUS = {
    401: "The gateway asks for an access token (401).",
    403: "The sandbox is protected, and the request has no traffic access token (403).",
    500: "The address is not mapped to a sandbox (500).",
    502: "The gateway does not find the sandbox running (502).",
    503: "Nothing listens on the port, or the gateway is not ready (503).",
}
_SERVER = """
import base64, hashlib, http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        key = self.headers.get("Sec-WebSocket-Key")
        if key and "upgrade" in self.headers.get("Connection", "").lower():
            accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(accept).decode())
            self.end_headers()
        else:
            body = b"kruise-agents doctor"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        self.close_connection = True
    def log_message(self, *arguments):
        pass
server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
"""A server in the sandbox that answers requests, and upgrades to WebSockets (RFC 6455, 4.2.2)."""


@dataclass
class Session:
    """The sandbox of one run of the doctor."""

    world: World
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    sandbox: Any = None
    asked: bool = False
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def id(self) -> str:
        return str(self.sandbox.sandbox_id)

    def create(self) -> None:
        world = self.world
        name = "e2b_code_interpreter" if release(CODE_INTERPRETER) else "e2b"
        self.stack.enter_context(patch_e2b(world.scheme == "https"))
        self.asked = True
        self.sandbox = importlib.import_module(name).Sandbox.create(
            wanted_template(world),
            timeout=_LIFETIME,
            metadata={_MARK: self.mark},
            domain=str(world.domain),
            api_key=world.key,
            request_timeout=3 * _PATIENCE,
        )

    def kill(self) -> bool:
        """Kill the sandbox, also one that a create made without an answer. Return whether none is left."""
        sandbox, asked = self.sandbox, self.asked
        self.sandbox, self.asked = None, False
        if sandbox is not None:
            return bool(sandbox.kill(request_timeout=_PATIENCE))
        return not asked or all(self._delete(sandbox_id) for sandbox_id in self._left_over())

    def _left_over(self) -> list[str]:
        listed = self.world.ask_json(f"{LIST}?metadata={quote(f'{_MARK}={self.mark}', safe='')}")
        ids = [each.get("sandboxID") for each in listed or () if isinstance(each, dict)]
        return [each for each in ids if isinstance(each, str) and re.fullmatch(r"[A-Za-z0-9._~-]+", each)]

    def _delete(self, sandbox_id: str) -> bool:
        world = self.world
        if world.domain is None or world.scheme is None:
            return False
        look = look_at(
            world.scheme,
            world.domain,
            f"{API_PREFIX}/sandboxes/{sandbox_id}",
            method="DELETE",
            headers={API_KEY_HEADER: world.key},
            proxy=world.proxy,
        )
        return look.status // 100 == 2

    def look(self, port: int, path: str, headers: dict[str, str] | None = None) -> Look:
        """Send a request to a port of the sandbox, without the SDK."""
        world = self.world
        assert world.domain is not None
        assert world.scheme is not None
        target = sandbox_prefix(self.id, port) + path
        return look_at(
            world.scheme,
            world.domain,
            target,
            headers=headers,
            seconds=_PATIENCE,
            proxy=world.proxy,
        )


def _session(world: World) -> Session:
    return world.once("session", lambda: Session(world))


def finish(world: World) -> None:
    """Kill the sandbox if it is still there, and undo the patch."""
    session = _session(world)
    try:
        session.kill()
    finally:
        session.stack.close()


def _with_sandbox(check: Callable[[Session], Finding]) -> Callable[[World], Finding]:
    """Return a check that is skipped without a sandbox, and whose exceptions are findings."""

    def run(world: World) -> Finding:
        session = _session(world)
        return skipped("there is no sandbox") if session.sandbox is None else _tried(lambda: check(session))

    return run


def _tried(call: Callable[[], Finding]) -> Finding:
    with _silence():
        try:
            return call()
        except Exception as error:  # of any kind, by the SDK and its HTTP clients
            text = " ".join(str(error).split()) or "no words"
            return broken(type(error).__name__, f"{text[:400]}.")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the patch's warnings out of the report, which has checks for the same things."""
    with warnings.catch_warnings():
        for category in (OlderManagerWarning, SandboxIdWarning, ServerDomainWarning, UntestedSDKWarning):
            warnings.simplefilter("ignore", category)
        yield


@CHECKS.add(
    "create",
    "create",
    """`--create` makes one sandbox through the patched SDK, as a program does. It lives for 60 seconds at most, and the
    doctor kills it at the end, also if a later check fails. A template that does not exist, a quota, a stock that is
    empty, or a cluster without room make this fail; the manager's own words are shown. `--template` chooses another
    template.""",
)
def _create(world: World) -> Finding:
    if world.kind is None or not world.key:
        return skipped("no manager answers" if world.kind is None else "no key is set")
    session = _session(world)

    def create() -> Finding:
        session.create()
        return fine(f"{session.id} of {wanted_template(world)}")

    return _tried(create)


@CHECKS.add(
    "sandbox-domain",
    "domain in the answer",
    """The same as [the domain in answers](#server-domain), for the sandbox that `--create` has made.""",
)
@_with_sandbox
def _sandbox_domain(session: Session) -> Finding:
    return domain_of_answer(session.world, session.world.ask_json(f"{API_PREFIX}/sandboxes/{session.id}"))


@CHECKS.add(
    "sandbox-id",
    "ID of the sandbox",
    """OpenKruise's router takes every path that begins with `/kruise/api` for the API, so sandboxes whose ID begins
    with `api` (those of a namespace such as `api-prod`) cannot be reached by their private addresses. The patch sends
    routing headers for such IDs; `get_host()` and links do not work for them. Use a namespace with another name.""",
)
@_with_sandbox
def _sandbox_id(session: Session) -> Finding:
    if session.id.startswith("api"):
        return warning(session.id, "Its private addresses look like the API's. Links to its ports do not work.")
    return fine(session.id)


@CHECKS.add(
    "envd",
    "envd (port 49983)",
    """envd serves files and commands on port 49983 of a sandbox. 502: the sandbox is not running, or the gateway does
    not know it. 503: nothing listens there, or the gateway is not ready. 401 and 403: a gateway with authentication
    wants a token, for 403 call `patch_traffic_access_token()`. 404 or 500: the port of the domain serves the API only,
    such as port 8080 of OpenKruise's manager; use port 7788.""",
)
@_with_sandbox
def _envd(session: Session) -> Finding:
    try:
        running = bool(session.sandbox.is_running(request_timeout=_PATIENCE))
    except Exception as error:  # of any kind, by the SDK and its HTTP clients
        return broken(type(error).__name__, _reason(session.look(ENVD_PORT, "/health")) or str(error)[:400])
    if running:
        return fine("healthy")
    return broken("not healthy", _reason(session.look(ENVD_PORT, "/health")))


def _reason(look: Look) -> str:
    if look.trouble is not None:
        return f"{look.trouble}."
    return _STATUS.get(look.status, f"The answer is {look.status}: {look.text[:100]!r}.")


@CHECKS.add(
    "commands",
    "a command",
    """A command is started over a stream that stays open until it ends. It fails where a proxy cuts or buffers streams,
    or where the image of the sandbox has no `bash`.""",
)
@_with_sandbox
def _commands(session: Session) -> Finding:
    result = session.sandbox.commands.run("echo kruise", timeout=_PATIENCE)
    return (
        fine("echo") if result.stdout.strip() == "kruise" else broken(repr(result.stdout[:100]), "It is not the echo.")
    )


@CHECKS.add(
    "files",
    "a small file",
    """A file is written to the sandbox and read back.""",
)
@_with_sandbox
def _files(session: Session) -> Finding:
    text = f"{session.mark} √"
    session.sandbox.files.write(f"{_FILE}.txt", text, request_timeout=_PATIENCE)
    found = session.sandbox.files.read(f"{_FILE}.txt", request_timeout=_PATIENCE)
    return fine("written and read") if found == text else broken(repr(found[:100]), "It is not what was written.")


@CHECKS.add(
    "upload",
    "a file of 3 MB",
    """A reverse proxy often limits the size of a request. ingress-nginx and nginx answer 413 to more than 1 MB, which
    some SDKs show as a time-out. Set the annotation `nginx.ingress.kubernetes.io/proxy-body-size: "0"` on the ingress,
    or `client_max_body_size 0;` in nginx.""",
)
@_with_sandbox
def _upload(session: Session) -> Finding:
    try:
        session.sandbox.files.write(f"{_FILE}.bin", b"x" * _UPLOAD, request_timeout=2 * _PATIENCE)
    except Exception as error:  # of any kind, by the SDK and its HTTP clients
        if "413" not in str(error) and "timeout" not in type(error).__name__.lower():
            raise
        return broken(
            f"{type(error).__name__}: {str(error)[:100]}",
            "A reverse proxy in front of the manager limits the size of requests.",
            'kubectl annotate ingress -n sandbox-system --all nginx.ingress.kubernetes.io/proxy-body-size="0"',
        )
    return fine("written")


@CHECKS.add(
    "code-interpreter",
    "code interpreter (port 49999)",
    """`run_code` needs the code interpreter, which listens on port 49999 of the sandbox. 502 or 503 there, while envd
    answers, means that the image does not start it. Use a template with it, such as one of the image
    `e2bdev/code-interpreter`, or use commands in place of `run_code`.""",
)
@_with_sandbox
def _code_interpreter(session: Session) -> Finding:
    if not hasattr(session.sandbox, "run_code"):
        return skipped("e2b-code-interpreter is not installed")
    look = session.look(CODE_INTERPRETER_PORT, "/health", _access(session))
    if look.status == _OK:
        return fine("healthy")
    return broken(
        str(look.trouble or look.status),
        f"{_reason(look)} run_code does not work with this template.",
        "Sandbox.create(…)   # a template with the code interpreter",
    )


def _access(session: Session) -> dict[str, str]:
    """Return the headers with which the SDK reaches the ports of the sandbox, where the gateway asks for a token."""
    return {name: str(value) for name, value in session.sandbox.connection_config.sandbox_headers.items()}


@CHECKS.add(
    "run-code",
    "run_code",
    """A cell is run, and its output comes back.""",
)
@_with_sandbox
def _run_code(session: Session) -> Finding:
    if not hasattr(session.sandbox, "run_code"):
        return skipped("e2b-code-interpreter is not installed")
    execution = session.sandbox.run_code("print(6 * 7)", timeout=2 * _PATIENCE, request_timeout=2 * _PATIENCE)
    printed = "".join(execution.logs.stdout).strip()
    return fine("print") if printed == "42" else broken(repr(printed[:100]), f"{execution.error or 'It is not 42.'}")


@CHECKS.add(
    "streaming",
    "output while it is written",
    """A command prints a line, and waits for a file that the doctor writes as soon as it has seen the line. A reverse
    proxy that collects answers before it sends them on hands the line over too late. Turn its buffering off:
    `proxy_buffering off;` and `proxy_request_buffering off;` in nginx.""",
)
@_with_sandbox
def _streaming(session: Session) -> Finding:
    signal = f"{_FILE}.go"
    script = f"echo first; for i in $(seq 50); do [ -e {signal} ] && echo seen && exit; sleep 0.1; done; echo late"

    def on_stdout(text: str) -> None:
        if "first" in text:
            session.sandbox.files.write(signal, "", request_timeout=_PATIENCE)

    result = session.sandbox.commands.run(script, on_stdout=on_stdout, timeout=2 * _PATIENCE)
    if "seen" in result.stdout:
        return fine("streamed")
    return broken("late", "Output arrives only when the command has ended: a proxy buffers it.", "proxy_buffering off;")


@CHECKS.add(
    "port",
    "a port",
    """A small server is started in the sandbox and asked over `get_host(port)`, without the SDK, as a browser or
    another program would. 401: the gateway has authentication, so such requests need the header `X-Access-Token`. 403:
    the sandbox is protected, so they need a traffic access token. The image must have `python3` for this check.""",
)
@_with_sandbox
def _port(session: Session) -> Finding:
    port = _served_port(session)
    if port is None:
        return skipped("the sandbox has no python3")
    look = session.look(port, "/")
    if look.status == _OK and look.text == "kruise-agents doctor":
        return fine(f"{session.sandbox.get_host(port)}")
    if look.status in (401, 403):
        return warning(str(look.status), f"{_STATUS[look.status]} Requests to ports need it in a header.")
    return broken(str(look.trouble or look.status), _reason(look))


def _served_port(session: Session) -> int | None:
    def serve() -> int | None:
        session.sandbox.files.write(f"{_FILE}.py", _SERVER, request_timeout=_PATIENCE)
        start = f"nohup python3 {_FILE}.py > {_FILE}.port 2>&1 &"
        wait = f"for i in $(seq 80); do [ -s {_FILE}.port ] && break; sleep 0.1; done; cat {_FILE}.port"
        printed = session.sandbox.commands.run(f"{start} {wait}", timeout=2 * _PATIENCE).stdout.strip()
        return int(printed) if printed.isdigit() else None

    return session.world.once("port", serve)


@CHECKS.add(
    "websocket",
    "a WebSocket",
    """The same server is asked to upgrade a connection to a WebSocket. A reverse proxy that drops the header `Upgrade`
    breaks terminals in the browser, notebooks and live reload. nginx needs `proxy_http_version 1.1;` and the headers
    `Upgrade` and `Connection` passed on.""",
)
@_with_sandbox
def _websocket(session: Session) -> Finding:
    port = _served_port(session)
    if port is None:
        return skipped("the sandbox has no python3")
    key = base64.b64encode(os.urandom(16)).decode()
    accepted = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()  # noqa: S324 - RFC 6455
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
    look = session.look(port, "/", {**_access(session), **upgrade})
    if look.status == _SWITCHING and look.headers.get("sec-websocket-accept") == base64.b64encode(accepted).decode():
        return fine("upgraded")
    return broken(
        str(look.trouble or look.status),
        "The upgrade does not reach the sandbox: a proxy drops the header Upgrade.",
        "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;",
    )


@CHECKS.add(
    "kill",
    "kill",
    """The sandbox is killed. If that fails, the manager ends it by itself, 60 seconds after it was made.""",
)
def _kill(world: World) -> Finding:
    session = _session(world)
    if not session.asked:
        return skipped("there is no sandbox")
    made = session.sandbox is not None
    return _tried(
        lambda: (
            fine("killed" if made else "none was left")
            if session.kill()
            else broken("still there", f"The manager ends it {_LIFETIME} seconds after it was made.")
        )
    )
