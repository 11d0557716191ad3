"""The page "Errors A to Z" has every message that users are told, and no message that nobody writes."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from kruise_agents.errors import KruiseAgentsError
from support.managers import API_KEY, RunningManager, processes_with, running_manager

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "kruise_agents"
PAGE = ROOT / "docs" / "reference" / "errors.md"
EXPLANATIONS = SOURCE / "client" / "explanations.py"
TEXT = re.compile(r"\*\*`(.+?)`\*\*")
ARTICLES = {"the", "a", "an", "this"}
OTHERS_THAT_TELL = {
    "TypeError": 0,
    "_refused": 0,
    "_warn_once": 2,
    "_wrong": 1,
    "complain": 1,
    "notify": 0,
    "ApiError": 1,
    "HeadRefusedError": 1,
    "OutsideError": 0,
    "error_response": 1,
    "_forbidden": 0,
    "_json_error": 2,
    "PlainTextResponse": 0,
}
"""Functions beside the exceptions of this package that get a message for users, and which argument has the message."""
CONVERTED = {
    "manager/api/openapi.py": "nothing: a route is declared wrongly",
    "manager/openkruise/data_plane.py": "the manager answers `failed to map request to sandbox`",
    "protocol/routing.py": "the manager answers `failed to map request to sandbox`",
    "manager/sandboxes/lifecycle.py": "RefusedError: the API answers 404",
    "manager/sandboxes/operations.py": "RefusedError: the API answers 404, or `sandbox is not resumable`",
    "manager/sandboxes/control_client.py": "parts of `the sandbox could not be started`",
}
"""Modules whose exceptions reach nobody with their own messages, and what is told instead."""
OF_OTHERS = {
    "API key is required, please visit the API Keys tab at https://e2b.dev/dashboard?tab=keys to get your API key. …",
    "Command exited with code -1 and error:",
    "Could not open lock file /var/lib/dpkg/lock-frontend - open (2: No such file or directory)",
    "Could not resolve host: …",
    "[Errno 27] File too large",
    "[Errno 122] Disk quota exceeded",
    "MemoryError",
    "Expecting value: line 1 column 1 (char 0)",
    "Failed to create client: builder error: unexpected error: No CA certificates were loaded from the system",
    "Failed to resolve '…' ([Errno -3] Temporary failure in name resolution)",
    "Invalid value for '…': …",
    "'Sandbox' object has no attribute 'run_code'",
    "Paused sandbox … not found",
    "unexpected EOF during chunk size line",
    "Sandbox … not found",
    *(
        f"Request failed: error sending request for url (…): client error {cause}"
        for cause in (
            "(Connect): dns error: error resolving DNS: …",
            '(Connect): invalid peer certificate: certificate not valid for name "…"; …',
            "(Connect): invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))",
            "(Connect): invalid peer certificate: UnknownIssuer",
            "(Connect): received corrupt message of type InvalidContentType",
            "(Connect): tcp connect error: Connection refused (os error 111)",
            "(SendRequest): connection closed before message completed",
        )
    ),
}
"""Messages of the SDK, of its HTTP client and of programs in a sandbox; the live tests below cause most of them."""


@cache
def entries() -> tuple[tuple[str, ...], ...]:
    """Return the messages of each entry, in the order of the page."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = [" ".join(block.split()) for block in re.split(r"\n(?=- \*\*`|## )", text) if block.startswith("- **`")]
    return tuple(tuple(TEXT.findall(block)) for block in blocks)


def words(message: str) -> list[str]:
    """Return what an entry is sorted by."""
    found = re.sub(r"[^a-z ]", " ", message.replace("…", " ").casefold()).split()
    while found[0] in ARTICLES:
        found.pop(0)
    return found


def texts_of(node: ast.expr) -> Iterator[str]:
    """Return the text that an expression gives, with ``…`` for what varies; of other expressions, the texts in them."""
    whole = whole_text(node)
    if whole is not None:
        yield " ".join(whole.split())
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from texts_of(child)


def whole_text(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(whole_text(value) or "…" for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (whole_text(left) or "…") + (whole_text(right) or "…")
    return None


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """Return the calls in the sources, each with its module and the name of what is called."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(SOURCE)), node, ast.unparse(node.func).rpartition(".")[2]


@cache
def exceptions() -> frozenset[str]:
    """Return the names of the classes below the root of the tree, from the sources."""
    bases: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases.setdefault(node.name, set()).update(ast.unparse(base).rpartition(".")[2] for base in node.bases)
    found = {KruiseAgentsError.__name__}
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return frozenset(found)


def explanations() -> Iterator[tuple[str, str]]:
    """Return the explanations that the patch adds to errors, each with its place: what functions of a sight return."""
    for node in ast.walk(ast.parse(EXPLANATIONS.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and any(argument.arg == "sight" for argument in node.args.args):
            for part in ast.walk(node):
                if isinstance(part, ast.Return) and (text := whole_text(part.value or part)) is not None:
                    yield f"{EXPLANATIONS.name}:{part.lineno}", " ".join(text.split())


def told() -> Iterator[tuple[str, str]]:
    """Return each message that the patch, the commands and the start of a manager tell, with its place."""
    yield from explanations()
    for module, call, name in calls():
        if module.startswith("sandbox/") or module in CONVERTED:
            continue
        number = 0 if name in exceptions() else OTHERS_THAT_TELL.get(name)
        if number is not None and number < len(call.args):
            for text in texts_of(call.args[number]):
                if len(re.sub(r"[^A-Za-z]", "", text)) > 3:
                    yield f"{module}:{call.lineno}", text


@cache
def written() -> frozenset[str]:
    """Return every text in the sources."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.expr) and (text := whole_text(node)) is not None:
                found.add(" ".join(text.split()))
    return frozenset(found)


@cache
def pattern_of(text: str) -> re.Pattern[str]:
    """Return the pattern of a text, with anything for each ``…``; a last ``…`` may also stand for nothing."""
    return re.compile(".*".join(map(re.escape, text.removesuffix(" …").split("…"))) + (" ?.*" * text.endswith(" …")))


def same(entry: str, text: str) -> bool:
    """Return whether an entry stands for a text of the code: what varies in one may vary in the other too."""
    return bool(pattern_of(entry).fullmatch(text) or (says_enough(text) and pattern_of(text).fullmatch(entry)))


def is_part(text: str, entry: str) -> bool:
    """Return whether an entry has a text that the code makes a part of a message."""
    return len(text) > 15 and pattern_of(text).search(entry) is not None


def says_enough(text: str) -> bool:
    return len(re.sub(r"[^A-Za-z]", "", text)) > 5


def test_every_message_has_an_entry() -> None:
    known = [message for entry in entries() for message in entry]
    missing = [
        f"{place}: {text}"
        for place, text in told()
        if not any(same(entry, text) or is_part(text, entry) for entry in known)
    ]
    assert missing == [], "\n".join(missing)


def test_every_entry_is_a_message_of_the_code() -> None:
    messages = [message for entry in entries() for message in entry if message not in OF_OTHERS]
    # The code may have the text behind "…: " alone.
    unknown = [
        message
        for message in messages
        if not any(same(message, text) or same(message.removeprefix("…: "), text) for text in written())
    ]
    assert unknown == [], "\n".join(unknown)


def test_the_messages_of_others_are_on_the_page() -> None:
    assert OF_OTHERS - {message for entry in entries() for message in entry} == set()


def test_entries_are_sorted_and_their_letters_are_listed() -> None:
    keys = [words(entry[0]) for entry in entries()]
    assert keys == sorted(keys)
    letters = list(dict.fromkeys(key[0][0].upper() for key in keys))
    head, *_ = page = PAGE.read_text(encoding="utf-8").split("\n## ")
    assert [part[0] for part in page[1:]] == letters
    assert re.findall(r"\[([A-Z])\]\(#[a-z]\)", head.rpartition("\n\n")[2]) == letters


PROGRAM = """
import os
try:
    from kruise_agents.patch_e2b import patch_e2b
    patch_e2b({https})
    import e2b
    from e2b_code_interpreter import Sandbox
    {call}
except Exception as error:
    print(error)
"""
CREATE = "Sandbox.create(retries=0)"


@dataclass(frozen=True)
class Servers:
    """Managers that clients address in a wrong way."""

    plain: RunningManager
    tls: RunningManager
    authority: RunningManager
    other_name: RunningManager


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    authority = trustme.CA()
    certificate = authority.issue_cert("other.example")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.private_key_pem.write_to_path(str(folder / "ca.key"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "other.pem"))

    def manager(name: str, *options: str) -> Any:
        (folder / name).mkdir()
        return running_manager(folder / name, *options, runtime="process")

    own, other = str(folder / "ca.pem"), str(folder / "other.pem")
    with (
        manager("plain") as plain,
        manager("tls", "--tls") as tls,
        manager("authority", "--cert", own, "--key", str(folder / "ca.key")) as as_authority,
        manager("other", "--cert", other, "--key", other) as other_name,
    ):
        yield Servers(plain, tls, as_authority, other_name)


def message_of(
    domain: str, variables: Mapping[str, str] | None = None, *, https: bool = False, call: str = CREATE
) -> str:
    """Return the message of the exception that a program gets."""
    environment = {"PATH": os.environ["PATH"], "E2B_DOMAIN": domain, "E2B_API_KEY": API_KEY, **(variables or {})}
    command = [sys.executable, "-c", PROGRAM.format(https=https, call=call)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    return done.stdout


def on_the_page(text: str) -> list[str]:
    """Return the messages of others on the page that a text has."""
    return [message for message in OF_OTHERS if pattern_of(message).search(" ".join(text.split()))]


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Run a server that sends the same bytes to each client and closes the connection, and yield its domain."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):  # the end of the test
                while True:
                    connection = listener.accept()[0]
                    with connection:
                        connection.recv(65536)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.live
def test_schemes_and_certificates_that_do_not_fit(servers: Servers, tmp_path: Path) -> None:
    request = "Request failed: error sending request for url (…): client error"
    plain, tls, authority, other = (
        each.domain for each in (servers.plain, servers.tls, servers.authority, servers.other_name)
    )
    ca = str(servers.authority.state_dir.parents[1] / "ca.pem")
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as other_server:
        assert on_the_page(message_of(other_server, https=True)) == [
            f"{request} (Connect): received corrupt message of type InvalidContentType"
        ]
    with answering(b"") as other_server:
        assert on_the_page(message_of(other_server)) == [
            f"{request} (SendRequest): connection closed before message completed"
        ]
    assert on_the_page(message_of(plain, https=True)) == [
        f"{request} (Connect): invalid peer certificate: UnknownIssuer"
    ]
    assert "400: this port speaks https, and the request came as plain http" in message_of(tls)
    assert on_the_page(message_of(tls, https=True)) == [f"{request} (Connect): invalid peer certificate: UnknownIssuer"]
    assert on_the_page(message_of(authority, {"SSL_CERT_FILE": ca}, https=True)) == [
        f"{request} (Connect): invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))"
    ]
    assert on_the_page(message_of(other, {"SSL_CERT_FILE": ca}, https=True)) == [
        f'{request} (Connect): invalid peer certificate: certificate not valid for name "…"; …'
    ]
    assert on_the_page(message_of(tls, {"SSL_CERT_FILE": str(tmp_path / "none.pem")}, https=True)) == [
        "Failed to create client: builder error: unexpected error: No CA certificates were loaded from the system"
    ]


@pytest.mark.live
@pytest.mark.parametrize(
    ("call", "variables", "expected"),
    [
        ("del os.environ['E2B_API_KEY']; Sandbox.create()", {}, "API key is required, please visit"),
        (CREATE, {"E2B_API_URL": "http://{domain}"}, "Expecting value: line 1 column 1 (char 0)"),
        (CREATE, {"E2B_DOMAIN": "localhost:9"}, "Connection refused"),
        (CREATE, {"HTTP_PROXY": "http://localhost:9"}, "Connection refused"),
        ("Sandbox.create().run_code('1')", {"E2B_DEBUG": "true"}, "Connection refused"),
        ("Sandbox.create().run_code('1')", {"E2B_SANDBOX_URL": "http://localhost:9"}, "Connection refused"),
        ("Sandbox.connect('i' + '0' * 20)", {}, "Paused sandbox … not found"),
        ("e2b.Sandbox.create().run_code('1')", {}, "'Sandbox' object has no attribute 'run_code'"),
        ("Sandbox.create().commands.run('kill -9 $$')", {}, "Command exited with code -1 and error:"),
    ],
)
def test_wrong_variables_and_calls(call: str, variables: dict[str, str], expected: str, servers: Servers) -> None:
    given = {name: value.format(domain=servers.plain.domain) for name, value in variables.items()}
    found = on_the_page(message_of(servers.plain.domain, given, call=call))
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.live
def test_a_manager_that_dies_in_a_call(tmp_path: Path) -> None:
    with running_manager(tmp_path, runtime="process") as manager:
        die = f"import threading; threading.Timer(1, os.kill, ({manager.process.pid}, 9)).start()"
        call = f"sandbox = Sandbox.create(); {die}; sandbox.commands.run('sleep 20')"
        try:
            assert "unexpected EOF during chunk size line" in on_the_page(message_of(manager.domain, call=call))
        finally:  # the sandbox outlives its manager
            for pid in processes_with(str(manager.state_dir)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.live
def test_a_proxy_without_a_manager_behind() -> None:
    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(502)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        message = message_of(f"127.0.0.1:{server.server_port}")
        server.shutdown()
    assert message.startswith("502: a proxy or load balancer at 127.0.0.1:")
