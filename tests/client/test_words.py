"""Words where people stop: mistakes that were made on purpose, and the text that a program gets for each."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import json
import os
import pickle
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from packaging.version import Version

from kruise_agents.client.addresses.explained_answers import explained
from kruise_agents.client.explanations import MARK, explain, explain_async, explanation_of_answer
from kruise_agents.patch_e2b import patch_e2b
from support.programs import SDK, run_program
from support.sdk import CODE_INTERPRETER_VERSION, E2B_VERSION

if TYPE_CHECKING:
    from support.managers import RunningManager

pytestmark = pytest.mark.live
KEY = "e2b_5ec4e75ec4e75ec4e75ec4e75ec4e75ec4e75ec4"
OVER_PYQWEST = Version("2.38.0") <= E2B_VERSION
needs_code = pytest.mark.skipif(CODE_INTERPRETER_VERSION is None, reason="the code interpreter is not installed")
needs_pyqwest = pytest.mark.skipif(not OVER_PYQWEST, reason="e2b 2.38.0 and later speak through pyqwest")

PROGRAM = """
import asyncio, importlib.util, os, sys
from kruise_agents.patch_e2b import patch_e2b
sys.path.insert(0, {tests!r})
try:
    patch_e2b({https})
    import e2b
    from support.sdk import build_sandbox
    Sandbox, AsyncSandbox = e2b.Sandbox, e2b.AsyncSandbox
    if importlib.util.find_spec("e2b_code_interpreter"):
        from e2b_code_interpreter import AsyncSandbox, Sandbox
    {call}
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""
TEMPLATE = (
    f"{SDK}\nimport importlib.util\nif importlib.util.find_spec('e2b_code_interpreter'): import e2b_code_interpreter"
)
CREATE = "Sandbox.create()"
CREATE_ASYNC = "asyncio.run(AsyncSandbox.create())"


def told(call: str = CREATE, variables: Mapping[str, str] | None = None, *, https: bool = False) -> str:
    """Return what a program prints and is warned of: the class and text of its exception. No key is ever in it."""
    environment = {"PATH": os.environ["PATH"], "E2B_API_KEY": KEY, **(variables or {})}
    program = PROGRAM.format(call=call, https=https, tests=str(Path(__file__).parents[1]))
    done = run_program(program, template=TEMPLATE, environment=environment)
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    assert KEY not in text
    assert KEY[4:] not in text
    return text


class Handler(BaseHTTPRequestHandler):
    """A server that gives the same answer to every request."""

    status, kind, body = 200, "text/html", b"<html>please log in</html>"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        if self.kind:
            self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST

    def log_message(self, *arguments: object) -> None:
        pass


class Redirect(Handler):
    """A server that sends every request on."""

    status = 302

    def end_headers(self) -> None:
        self.send_header("Location", "https://d.example/kruise/api")
        super().end_headers()


@contextlib.contextmanager
def served(handler: type[Handler], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve on a free port of loopback, and yield ``localhost:<port>``."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that refuse a certificate
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.05), daemon=True)
        thread.start()
        yield f"localhost:{server.server_port}"
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def cutting(answer: bytes) -> Iterator[str]:
    """Read one request of each connection, send ``answer``, and close the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def cut() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(0.2)
                    with contextlib.suppress(TimeoutError):  # what is left unread would reset the connection
                        while connection.recv(65536):
                            connection.settimeout(0.02)
                    connection.sendall(answer)

    thread = threading.Thread(target=cut, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def answering(status: int, kind: str, body: bytes) -> type[Handler]:
    return type("Answering", (Handler,), {"status": status, "kind": kind, "body": body})


@dataclass(frozen=True)
class Servers:
    """Addresses at which something is not as the program believes."""

    page: str
    bad_gateway: str
    redirect: str
    plain_on_tls: str
    closing: str
    losing: str
    forbidden: str
    web_server: str
    silent: str
    nobody: str = "localhost:9"


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    forbidden = b'{"code": 403, "message": "forbidden: invalid or missing traffic access token"}'
    stream = b"HTTP/1.1 200 OK\r\nContent-Type: application/connect+json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with contextlib.ExitStack() as stack:
        yield Servers(
            stack.enter_context(served(Handler)),
            stack.enter_context(served(answering(502, "", b""))),
            stack.enter_context(served(Redirect)),
            stack.enter_context(
                served(answering(400, "text/plain", b"Client sent an HTTP request to an HTTPS server.\n"))
            ),
            stack.enter_context(cutting(b"")),
            stack.enter_context(cutting(stream)),
            stack.enter_context(served(answering(403, "application/json", forbidden))),
            stack.enter_context(served(answering(405, "text/html", b"<html><title>405 Not Allowed</title></html>"))),
            f"127.0.0.1:{stack.enter_context(socket.create_server(('127.0.0.1', 0))).getsockname()[1]}",
        )


@dataclass(frozen=True)
class Tls:
    """Servers with certificates that clients refuse, and the file of their authority."""

    good: str
    other_name: str
    authority: str
    ca: str


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.private_key_pem.write_to_path(str(folder / "ca.key"))

    def context(*names: str) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if names:
            authority.issue_cert(*names).configure_cert(made)
        else:
            made.load_cert_chain(folder / "ca.pem", folder / "ca.key")
        return made

    with (
        served(Handler, context("localhost")) as good,
        served(Handler, context("other.example")) as other,
        served(Handler, context()) as itself,
    ):
        yield Tls(good, other, itself, str(folder / "ca.pem"))


WITHOUT_A_SERVER = [
    ("1 no domain", CREATE, {}, ["MissingDomainError: no domain of your own", "kruise-agents serve prints its own"]),
    ("2 scheme", CREATE, {"E2B_DOMAIN": "http://a.b:1"}, ["has a scheme; use 'a.b:1'"]),
    ("3 path", CREATE, {"E2B_DOMAIN": "a.b/x"}, ["has a path; use 'a.b'"]),
    ("5 blank", CREATE, {"E2B_DOMAIN": "a b"}, ["has a blank in it"]),
    ("4 no such name", CREATE, {"E2B_DOMAIN": "no.invalid"}, ["'no.invalid' has no address", "doctor"]),
    ("4 no such name", CREATE_ASYNC, {"E2B_DOMAIN": "no.invalid"}, ["'no.invalid' has no address", "doctor"]),
    ("7 no key", CREATE, {"E2B_API_KEY": "-"}, ["AuthenticationException: API key is required", "not one of e2b.dev"]),
    ("9 nobody", CREATE, {}, ["ConnectError", "nobody listens on localhost:9", "kruise-agents serve", "doctor"]),
    ("9 nobody", CREATE_ASYNC, {}, ["ConnectError", "nobody listens on localhost:9", "kruise-agents serve"]),
    ("9 files", "build_sandbox().files.list('/')", {}, ["nobody listens on localhost:9"]),
    ("9 files", "build_sandbox().files.read('/x')", {}, ["nobody listens on localhost:9"]),
    ("9 command", "build_sandbox().commands.run('ls')", {}, ["nobody listens on localhost:9"]),
    ("39 E2B_API_URL", CREATE, {"E2B_API_URL": "https://api.no.invalid"}, ["comes from E2B_API_URL: unset it"]),
    (
        "39 E2B_API_URL",
        CREATE,
        {"E2B_API_URL": "https://api.no.invalid"},
        ["LeftOverVariableWarning: E2B_API_URL sends the SDK to 'api.no.invalid', and not to 'localhost:9'"],
    ),
    (
        "43 E2B_SANDBOX_URL",
        "build_sandbox().files.list('/')",
        {"E2B_SANDBOX_URL": "http://localhost:8"},
        [
            "LeftOverVariableWarning: E2B_SANDBOX_URL",
            "localhost:8. This address comes from E2B_SANDBOX_URL",
        ],
    ),
    (
        "42 E2B_DEBUG",
        "build_sandbox().files.list('/')",
        {"E2B_DEBUG": "true"},
        ["LeftOverVariableWarning: E2B_DEBUG is set", "nobody listens on localhost:49983. E2B_DEBUG is set, so"],
    ),
    (
        "46 works",
        "print(e2b.ConnectionConfig().api_url)",
        {"E2B_DOMAIN": "LOCALHOST:9/"},
        ["http://localhost:9/kruise"],
    ),
    (
        "another domain than one's own",
        "build_sandbox(config=e2b.ConnectionConfig(domain='nothing.invalid')).files.list('/')",
        {},
        [
            "the name 'nothing.invalid' has no address on this machine",
            "This address is not that of E2B_DOMAIN (localhost:9): it comes from domain= in the program or, with",
        ],
    ),
    ("48 'http'", "patch_e2b('http')", {}, ["TypeError: patch_e2b(https) takes True (https) or False (plain http)"]),
    (
        "62 run_code",
        "build_sandbox(e2b.Sandbox).run_code('1')",
        {},
        ["AttributeError: 'Sandbox' object has no att"],
    ),
    ("62 run_code", "e2b.AsyncSandbox.run_code", {}, ["from e2b_code_interpreter import AsyncSandbox"]),
    ("70 module", "from kruise_agents import patch_e2b as p; p(); print('works')", {}, ["works"]),
    ("71 module", "import kruise_agents; kruise_agents.patch_e2b(False); print('works')", {}, ["works"]),
]


@pytest.mark.parametrize(("row", "call", "variables", "expected"), WITHOUT_A_SERVER)
def test_without_a_server(row: str, call: str, variables: dict[str, str], expected: list[str]) -> None:
    given = {"E2B_DOMAIN": "localhost:9", **variables}
    if row == "1 no domain":
        del given["E2B_DOMAIN"]
    if row == "7 no key":
        call = f"del os.environ['E2B_API_KEY']; {call}"
    text = told(call, given)
    assert [part for part in expected if part not in text] == [], text


WITH_A_SERVER: list[tuple[str, str, str, list[str]]] = [
    (
        "41 a web page",
        CREATE,
        "page",
        ["JSONDecodeError: Expecting value", "answered 200 with something else than"],
    ),
    ("41 a web page", CREATE_ASYNC, "page", ["JSONDecodeError: Expecting value", "such as a login page", "doctor"]),
    (
        "41 a redirect",
        CREATE,
        "redirect",
        ["sends requests on to https://d.example/kruise/api (302), and the SDK does not follow. If the API is there"],
    ),
    ("79 a proxy alone", CREATE, "bad_gateway", ["SandboxException: 502: a proxy or load balancer at localhost:"]),
    ("79 a proxy alone", CREATE_ASYNC, "bad_gateway", ["Look whether the manager runs", "doctor"]),
    ("11 http on https", CREATE, "plain_on_tls", ["JSONDecodeError", "wants https", "Call patch_e2b();"]),
    ("78 closed", CREATE, "closing", ["RemoteProtocolError", "closed the connection without an answer", "doctor"]),
    ("78 closed", CREATE_ASYNC, "closing", ["RemoteProtocolError", "closed the connection without an answer"]),
    ("78 lost", "build_sandbox().commands.run('x')", "losing", ["the connection was lost during the call"]),
    ("a web server alone", "build_sandbox().commands.run('x')", "web_server", ["must pass on all of /kruise/, not"]),
    ("a web server alone", "build_sandbox().files.write('x', 'y')", "web_server", ["not /kruise/api/ alone"]),
    (
        "silence",
        "build_sandbox().files.read('x', request_timeout=0.3)",  # e2b 2.8.0 waits for a create without a limit
        "silent",
        ["Timeout", "did not answer in time. If the work takes longer: request_timeout="],
    ),
    ("75 protected", "build_sandbox().commands.run('x')", "forbidden", ["patch_traffic_access_token()"]),
    ("75 protected", "build_sandbox().files.read('x')", "forbidden", ["patch_traffic_access_token()"]),
]


@pytest.mark.parametrize(("row", "call", "server", "expected"), WITH_A_SERVER)
def test_with_a_server(row: str, call: str, server: str, expected: list[str], servers: Servers) -> None:
    text = told(call, {"E2B_DOMAIN": getattr(servers, server)})
    assert [part for part in expected if part not in text] == [], text


@needs_code
@pytest.mark.parametrize("call", ["build_sandbox(Sandbox).run_code('1')", "asyncio.run(run())"])
def test_row_78_a_connection_is_lost_while_code_runs(call: str, servers: Servers) -> None:
    if "asyncio" in call:
        call = (
            "exec('async def run(): await build_sandbox(AsyncSandbox).run_code(\"1\")', globals()); asyncio.run(run())"
        )
    assert "the connection was lost during the call" in told(call, {"E2B_DOMAIN": servers.losing})


@needs_code
@pytest.mark.parametrize(
    "error",
    [
        TypeError("get_transport() got an unexpected keyword argument 'http2'"),
        AttributeError("'AsyncSandbox' object has no attribute '_transport'"),
    ],
)
def test_releases_of_the_sdk_that_do_not_fit_each_other(error: Exception) -> None:
    explain(error)
    assert "pip install --upgrade e2b e2b-code-interpreter" in str(error)


@pytest.mark.parametrize("call", [CREATE, CREATE_ASYNC])
def test_row_10_https_on_a_port_that_speaks_http(call: str, servers: Servers) -> None:
    text = told(call, {"E2B_DOMAIN": servers.page}, https=True)
    assert text.startswith("ConnectError: ")
    assert f"{servers.page} speaks plain http, and the newest call of patch_e2b() asks for https" in text
    assert "patch_e2b(False)" in text


@pytest.mark.parametrize("call", [CREATE, CREATE_ASYNC])
def test_a_tls_handshake_that_ends_at_once(call: str, servers: Servers) -> None:
    text = told(call, {"E2B_DOMAIN": servers.closing}, https=True)
    assert f"{servers.closing} closed the connection without an answer" in text


@pytest.mark.parametrize("call", [CREATE, CREATE_ASYNC])
def test_row_11_http_on_a_port_that_speaks_https(call: str, tls: Tls) -> None:
    """The patch looks at the address, because the SDK sees only that the connection was closed."""
    text = told(call, {"E2B_DOMAIN": tls.good})
    assert f"{tls.good} wants https, and the newest call of patch_e2b() asks for plain http. Call patch_e2b()" in text


@pytest.mark.parametrize("call", [CREATE, CREATE_ASYNC])
@pytest.mark.parametrize(
    ("row", "server", "trusted", "expected"),
    [
        ("12", "good", False, "from an authority that this program does not trust; SSL_CERT_FILE is not set"),
        ("12b", "authority", True, "kruise-agents cert localhost"),
        ("13", "other_name", True, "is for other names. Set E2B_DOMAIN to one of them, or make a certificate"),
    ],
)
def test_certificates(row: str, server: str, trusted: bool, expected: str, call: str, tls: Tls) -> None:
    if row == "12b" and not OVER_PYQWEST:
        pytest.skip("OpenSSL takes the certificate of an authority for that of a server")
    variables = {"SSL_CERT_FILE": tls.ca} if trusted else {}
    text = told(call, {"E2B_DOMAIN": getattr(tls, server), **variables}, https=True)
    assert expected in text
    assert text.startswith("ConnectError: ")


@pytest.mark.parametrize("call", [CREATE, CREATE_ASYNC])
def test_row_14_ssl_cert_file_names_no_certificates(call: str, servers: Servers, tmp_path: Path) -> None:
    missing, empty = tmp_path / "none.pem", tmp_path / "empty.pem"
    empty.write_text("no certificate")
    variables = {"E2B_DOMAIN": servers.page, "SSL_CERT_FILE": str(missing)}
    text = told(call, variables, https=True)
    assert f"SSL_CERT_FILE is {missing}, and there is no such file" in text
    assert text.startswith("RuntimeError: " if OVER_PYQWEST else "FileNotFoundError: ")
    text = told(call, {**variables, "SSL_CERT_FILE": str(empty)}, https=True)
    assert f"SSL_CERT_FILE is {empty}, which has no PEM certificate in it" in text


@needs_pyqwest
@pytest.mark.parametrize("proxy", ["nobody", "bad_gateway"])
def test_a_proxy_variable_that_catches_localhost(proxy: str, servers: Servers) -> None:
    proxy = getattr(servers, proxy)
    text = told(CREATE, {"E2B_DOMAIN": servers.page, "HTTP_PROXY": f"http://user:{KEY}@{proxy}"})
    assert f"sends requests for {servers.page} to the proxy {proxy}" in text
    assert "export NO_PROXY=localhost" in text


def test_row_16_an_object_from_before_the_patch_is_named() -> None:
    call = """handle = patch_e2b(); handle.close()
    from kruise_agents.patch_e2b import unpatch_e2b
    unpatch_e2b(); old = build_sandbox(); patch_e2b(); old.files.read("/x")"""
    text = told(call, {"E2B_DOMAIN": "no.invalid"})
    assert "49983-sbx.no.invalid is an address of the unpatched SDK" in text


@needs_pyqwest
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_after_the_first_request_is_announced_once(servers: Servers) -> None:
    call = """exec(FORKS, globals())"""
    forks = """
import signal
from contextlib import suppress
def request():
    with suppress(Exception): Sandbox.create(request_timeout=1)
def in_child(times):
    pid = os.fork()
    if pid == 0:
        signal.alarm(2)
        for _ in range(times): request()
        os._exit(0)
    os.waitpid(pid, 0)
in_child(1)
print("SILENT", flush=True)
request()
in_child(2)
"""
    text = told(f"FORKS = {forks!r}; {call}", {"E2B_DOMAIN": servers.bad_gateway})
    assert text.count("ForkWarning: this process was forked") == 1
    assert "'spawn' or 'forkserver'" in text


def test_an_error_keeps_class_attributes_and_identity() -> None:
    """Programs catch classes, look at requests, and send errors to other processes."""
    request = httpx.Request("POST", "http://localhost:9/kruise/api/sandboxes")
    error = httpx.ConnectError("[Errno 111] Connection refused", request=request)
    explain(error, str(request.url))
    assert error.request is request
    once = str(error)
    explain(error, str(request.url))
    assert str(error) == once
    assert once.count(MARK) == 1
    assert str(pickle.loads(pickle.dumps(error))) == once
    refused = FileNotFoundError(2, "No such file or directory", "x.pem")
    explain(refused)
    assert (refused.errno, refused.filename) == (2, "x.pem")
    assert MARK in str(refused)


def test_an_exception_of_the_sdk_can_still_be_made_subclassed_and_pickled() -> None:
    import e2b

    class Own(e2b.SandboxException):
        def __init__(self, number: int) -> None:
            super().__init__(f"number {number}")
            self.number = number

    with patch_e2b():
        assert (str(Own(3)), Own(3).number) == ("number 3", 3)
        assert e2b.SandboxException().args == ()
        gone = e2b.SandboxException("Sandbox abc not found")
        assert str(gone).startswith(f"Sandbox abc not found{MARK}the sandbox has ended")
        assert str(pickle.loads(pickle.dumps(gone))) == str(gone)
    assert str(e2b.SandboxException("Sandbox abc not found")) == "Sandbox abc not found"


def test_texts_of_others_that_only_look_alike_are_left_alone() -> None:
    import e2b

    with patch_e2b():
        killed = "unexpected EOF during chunk size line: The sandbox was killed while the request was in flight."
        for text in (
            killed,
            "path '/Connection refused' does not exist",
            "dns error",
            "405: the file says <html>",
            "command failed: InvalidContentType",
        ):
            assert str(e2b.SandboxException(text)) == text


@pytest.mark.parametrize(
    ("status", "path", "body", "expected"),
    [
        (401, "/kruise/api/sandboxes", '{"code": 401, "message": "Invalid API Key"}', "'kruise-agents env' prints"),
        (400, "/kruise/api/v2/sandboxes", '{"message": "Template or Checkpoint not found"}', "SandboxSets"),
        (404, "/kruise/api/v3/templates", "404 page not found\n", "builds no templates"),
        (405, "/kruise/api/volumes", "Method Not Allowed", "no volumes"),
        (503, "/kruise/api/sandboxes", "no healthy upstream", "Look whether the manager runs"),
        (400, "/kruise/api/sandboxes", '{"code": 400, "message": "timeout must be greater than 0"}', None),
        (500, "/kruise/api/sandboxes", '{"code": 500, "message": "x"}', None),
    ],
)
def test_answers_of_managers(status: int, path: str, body: str, expected: str | None) -> None:
    """Rows 6, 20, 61 and 79, and what OpenKruise's manager answers."""
    kind = "application/json" if body.startswith("{") else "text/plain"
    words = explanation_of_answer(status, f"http://localhost:1{path}", kind, body)
    assert (expected is None) == (words is None)
    assert (expected or "") in (words or "")


def test_an_answer_that_is_no_json_stays_one() -> None:
    request = httpx.Request("POST", "http://localhost:1/kruise/api/v3/templates", headers={"X-API-Key": KEY})
    response = httpx.Response(404, text="404 page not found\n")
    answer = explained(request, response)
    assert answer.status_code == 404
    assert json.loads(answer.content)["message"].startswith(f"404 page not found{MARK}this manager builds no templates")
    with pytest.raises(json.JSONDecodeError, match="this manager builds no templates") as caught:
        answer.json()
    assert (caught.value.doc, caught.value.pos) == ("404 page not found\n", 4)


def test_an_answer_in_json_is_not_looked_at() -> None:
    request = httpx.Request("GET", "http://localhost:1/kruise/api/sandboxes")
    for response in (httpx.Response(200, json=[]), httpx.Response(204), httpx.Response(409, json={"message": "x"})):
        assert explained(request, response) is response


def test_the_event_loop_runs_while_the_patch_looks_at_an_address() -> None:
    """The server accepts and keeps silent, so the look takes its whole time."""

    async def main(url: str) -> None:
        loop = asyncio.get_running_loop()
        looking = asyncio.create_task(explain_async(error, url))
        turns = 0
        while not looking.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 10
        assert loop.is_running()

    error = httpx.RemoteProtocolError("Server disconnected without sending a response.")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asyncio.run(main(f"http://127.0.0.1:{silent.getsockname()[1]}/kruise/api/sandboxes"))
    assert "closed the connection without an answer" in str(error)


@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="this environment has no manager")
class TestWithAManager:
    @pytest.mark.parametrize(
        ("row", "call", "key", "expected"),
        [
            ("6 wrong key", CREATE, "e2b_00", ["401: Unauthorized", "'kruise-agents env' prints the right one"]),
            ("54 blanks", "Sandbox.list().next_items(); print('works')", " {key}\n", ["works"]),
            ("55 quotes", CREATE, '"{key}"', ["the API key has quotation marks at its ends. Remove them from E2B_API"]),
            (
                "20 template",
                "Sandbox.create('nope')",
                "{key}",
                ["this manager has: ", "serve --templates"],
            ),
            ("22 timeout", "Sandbox.create(timeout=-5)", "{key}", ["Timeout must be greater than 0"]),
            (
                "44 gone",
                "Sandbox.connect('i' + '0' * 20)",
                "{key}",
                ["Sandbox.list() shows the sandboxes"],
            ),
            (
                "61 build",
                "e2b.Template.build(e2b.Template().from_image('x'), alias='y')",
                "{key}",
                ["template builds: not supported by this manager yet; name a template", "y.toml"],
            ),
            (
                "41 no path",
                "os.environ['E2B_API_URL'] = 'http://{domain}'; Sandbox.create()",
                "{key}",
                ["JSONDecodeError"],
            ),
            (
                "41 no path",
                "os.environ['E2B_API_URL'] = 'http://{domain}'; Sandbox.create()",
                "{key}",
                [
                    "JSONDecodeError",
                    "so no API of a sandbox-manager is at /",
                    "This address comes from E2B_API_URL: unset it",
                ],
            ),
        ],
    )
    def test_mistakes(self, row: str, call: str, key: str, expected: list[str], manager: RunningManager) -> None:
        variables = {"E2B_DOMAIN": manager.domain, "E2B_API_KEY": key.format(key=manager.api_key)}
        text = told(call.replace("{domain}", manager.domain), variables)
        assert [part for part in expected if part not in text] == [], text
        assert manager.api_key not in text

    def test_row_10_https_where_a_manager_takes_both_names_the_shorter_way(self, manager: RunningManager) -> None:
        text = told(CREATE, {"E2B_DOMAIN": manager.domain, "E2B_API_KEY": manager.api_key}, https=True)
        assert "The port also speaks plain http: patch_e2b(False). For https: export SSL_CERT_FILE=" in text

    def test_row_17_a_second_patch_with_another_scheme(self, manager: RunningManager) -> None:
        call = "first = Sandbox.create(); patch_e2b(True); print(first.is_running()); first.kill(); Sandbox.create()"
        text = told(call, {"E2B_DOMAIN": manager.domain, "E2B_API_KEY": manager.api_key})
        assert "True" in text  # the old object goes on
        if "ConnectError" in text:  # a manager may answer https on the same port
            assert "the newest call of patch_e2b() asks for https" in text or "certificate of" in text
