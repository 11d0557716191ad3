"""The line that each request leaves in the log, the request id that leads to the line, and what no log may hold."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import NotFoundException, SandboxException
from e2b_code_interpreter import Sandbox
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from kruise_agents.manager.request_log import logger
from kruise_agents.patch_e2b import patch_e2b
from support.fronts import CLOSED_PORT, Front, running_front
from support.managers import API_KEY, RunningManager, running_manager, wait_for

CHAT = Subprotocol("chat")
MADE_HERE = re.compile(r"[0-9a-f]{32}")
HOST = b"Host: d.example\r\nConnection: close\r\n"
SECRETS = {
    "metadata": "secret-of-the-metadata",
    "variable": "secret-of-a-variable",
    "code": "secret-of-the-code",
    "query": "secret-of-a-query",
    "header": "secret-of-a-header",
    "path": "secret-of-a-path",
    "file": "secret-of-a-file",
    "key": "secret-of-a-wrong-key",
}


class Lines(logging.Handler):
    """The log's records of requests, in the form that a program reads."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[dict[str, Any]] = []
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.fields.append(record.fields)  # type: ignore[attr-defined]  # every line of a request has them
        self.texts.append(record.getMessage())

    def the_one(self) -> dict[str, Any]:
        """Return the line of the only request so far. The line may come a moment after the answer."""
        wait_for(lambda: self.fields, what="the line of the request")
        (fields,) = self.fields
        return fields


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with running_front() as running:
        yield running


@pytest.fixture
def lines(front: Front) -> Iterator[Lines]:
    front.arrivals.clear()
    front.answers.clear()
    handler = Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def request_ids(answer: bytes) -> list[str]:
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1")
    return [value for name, _, value in (line.partition(": ") for line in head.split("\r\n")) if name == "x-request-id"]


@pytest.mark.parametrize("chosen", ["a", "7f9d0000aaaa4444bbbb555566667777", "Root=1-67891233-abc/def+x=@y", "x" * 128])
def test_the_id_that_a_client_chooses_is_kept_everywhere(chosen: str, front: Front, lines: Lines) -> None:
    answer = front.ask(b"GET /kruise/sb1/3000/ HTTP/1.1\r\n" + HOST + f"X-Request-Id: {chosen}\r\n\r\n".encode())
    assert request_ids(answer) == [chosen]
    assert [value for name, value in front.arrivals[0].headers if name == b"x-request-id"] == [chosen.encode()]
    assert lines.the_one()["request_id"] == chosen


HOSTILE = {
    "nothing": b"X-Request-Id:\r\n",
    "a blank": b"X-Request-Id: a b\r\n",
    "ten kilobytes": b"X-Request-Id: " + b"x" * 10_000 + b"\r\n",
    "one character too many": b"X-Request-Id: " + b"x" * 129 + b"\r\n",
    "a forged line": b"X-Request-Id: a 200 1.0 ms key=admin\r\n",
    "a tab": b"X-Request-Id: a\tb\r\n",
    "quotes and braces": b'X-Request-Id: "},{"level":"info\r\n',
    "bytes above ASCII": b"X-Request-Id: \xe2\x80\xa8x\r\n",
    "a terminal's escape, percent-encoded": b"X-Request-Id: %1b[2J\r\n",
    "two of them": b"X-Request-Id: a\r\nX-Request-Id: b\r\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_id_is_replaced_before_anybody_sees_it(name: str, front: Front, lines: Lines) -> None:
    answer = front.ask(b"GET /kruise/sb1/3000/ HTTP/1.1\r\n" + HOST + HOSTILE[name] + b"\r\n")
    (made,) = request_ids(answer)
    assert MADE_HERE.fullmatch(made)
    assert [value for name, value in front.arrivals[0].headers if name == b"x-request-id"] == [made.encode()]
    assert lines.the_one()["request_id"] == made
    assert made in lines.texts[0]


@pytest.mark.parametrize("value", [b"a\x00b", b"a\x1b[31m", b"a\nGET / 200", b"a\rb"])
def test_control_characters_end_the_request_and_are_not_logged(value: bytes, front: Front, lines: Lines) -> None:
    answer = front.ask(b"GET /kruise/sb1/3000/ HTTP/1.1\r\n" + HOST + b"X-Request-Id: " + value + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert request_ids(answer) == [lines.the_one()["request_id"]]
    assert re.fullmatch(r"- - 400 [0-9.]+ ms sandbox=- key=- request=[0-9a-f]{32}", lines.texts[0])


def test_an_id_in_the_answer_of_a_sandbox_gives_way_to_ours(front: Front, lines: Lines) -> None:
    front.answers[3000] = [b"HTTP/1.1 200 OK\r\nX-Request-ID: theirs\r\nContent-Length: 2\r\n\r\nok"]
    answer = front.ask(b"GET /kruise/sb1/3000/ HTTP/1.1\r\n" + HOST + b"X-Request-Id: mine\r\n\r\n")
    assert (request_ids(answer), answer.lower().count(b"x-request-id")) == (["mine"], 1)


ANSWERED = {
    "the API": (b"GET /kruise/api/x HTTP/1.1", 200, "-"),
    "a sandbox": (b"POST /kruise/sb1/3000/p%41th?token=1 HTTP/1.1", 200, ":3000"),
    "a port that is closed": (b"GET /kruise/sb1/%d/ HTTP/1.1" % CLOSED_PORT, 502, f":{CLOSED_PORT}"),
    "a sandbox that is not there": (b"GET /kruise/nobody/3000/ HTTP/1.1", 502, ":3000"),
    "a port that cannot exist": (b"GET /kruise/sb1/99999/ HTTP/1.1", 400, "-"),
    "nothing": (b"GET /secret HTTP/1.1", 500, "-"),
    "an impossible head": (b"GET /kruise/sb1/3000/ HTTP/2.0", 505, "-"),
    "an unknown method": (b"SECRET /kruise/sb1/3000/ HTTP/1.1", 501, "-"),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_every_answer_has_an_id_and_every_request_a_line(name: str, front: Front, lines: Lines) -> None:
    line, status, route = ANSWERED[name]
    answer = front.ask(line + b"\r\n" + HOST + b"\r\n")
    fields = lines.the_one()
    assert (int(answer[9:12]), fields["status"]) == (status, status)
    assert request_ids(answer) == [fields["request_id"]]
    assert fields["route"] == route
    assert fields["ms"] >= 0
    assert "ecret" not in lines.texts[0].lower()


def test_a_body_that_is_refused_has_one_line_with_the_status_that_the_client_saw(front: Front, lines: Lines) -> None:
    head = b"POST /kruise/sb1/3000/ HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    answer = front.ask(head + b"no chunk\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    fields = lines.the_one()
    assert (fields["status"], fields["route"], [fields["request_id"]]) == (400, ":3000", request_ids(answer))


def test_a_client_that_leaves_before_the_answer_has_a_line_too(front: Front, lines: Lines) -> None:
    front.answers[3000] = []
    with front.connect() as connection:
        connection.sendall(b"GET /kruise/sb1/3000/ HTTP/1.1\r\n" + HOST + b"\r\n")
        wait_for(lambda: front.arrivals and front.arrivals[0].data, what="the request")
        assert lines.fields == []
    assert lines.the_one()["status"] == 499


def test_a_stream_has_its_line_at_its_end(front: Front, lines: Lines) -> None:
    front.answers[3000] = [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf "]
    with front.connect() as connection:
        connection.sendall(b"GET /kruise/sb1/3000/ HTTP/1.1\r\n" + HOST + b"\r\n")
        with contextlib.closing(connection.makefile("rb")) as stream:
            while stream.readline() != b"\r\n":
                pass
            assert stream.read(5) == b"half "
        assert lines.fields == []
    assert lines.the_one()["status"] == 200


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    folder = tmp_path_factory.mktemp("logged")
    with running_manager(folder, "--log-level", "debug", "--log-format", "json", pool=1) as running, patch_e2b(False):
        yield running


def log_of(manager: RunningManager) -> list[dict[str, Any]]:
    """Everything that the manager has logged; each line is one JSON object."""
    return [json.loads(line) for line in manager.log.read_text().splitlines()]


def line_of(manager: RunningManager, request_id: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        return [line for line in log_of(manager) if line.get("request_id") == request_id and "route" in line]

    wait_for(found, what=f"the line of {request_id}")
    (line,) = found()
    return line


def test_lines_of_the_api_name_route_sandbox_and_key_and_lead_from_the_body_to_the_log(manager: RunningManager) -> None:
    with manager.api() as api:
        created = api.post("/v2/sandboxes", json={"templateID": "base"})
        sandbox_id = created.json()["sandboxID"]
        seen = api.get(f"/sandboxes/{sandbox_id}?x={SECRETS['query']}")
        (key_id,) = [key["id"] for key in api.get("/api-keys").json()]
        failed = api.post(f"/sandboxes/{sandbox_id}/timeout", json={"timeout": "soon"})
        unknown = api.get(f"/{SECRETS['path']}")
        stranger = httpx.get(f"{manager.api_url}/sandboxes/{SECRETS['path']}", headers={"X-API-Key": SECRETS["key"]})
        missing = api.get("/sandboxes/e2b_0123456789")
        gone = api.delete(f"/sandboxes/{sandbox_id}")
    expected = [
        (created, "POST", "/v2/sandboxes", 201, sandbox_id, key_id),
        (seen, "GET", "/sandboxes/{sandbox_id}", 200, sandbox_id, key_id),
        (failed, "POST", "/sandboxes/{sandbox_id}/timeout", 400, sandbox_id, key_id),
        (unknown, "GET", "-", 404, None, key_id),
        (stranger, "GET", "/sandboxes/{sandbox_id}", 401, None, None),
        (missing, "GET", "/sandboxes/{sandbox_id}", 404, None, key_id),
        (gone, "DELETE", "/sandboxes/{sandbox_id}", 204, sandbox_id, key_id),
    ]
    for answer, *facts in expected:
        line = line_of(manager, answer.headers["x-request-id"])
        assert [line[name] for name in ("method", "route", "status", "sandbox", "key")] == facts
        if answer.status_code >= 400:
            assert answer.json()["request_id"] == line["request_id"]


def test_a_client_that_leaves_in_the_middle_of_a_body_is_no_error_of_the_manager(manager: RunningManager) -> None:
    head = f"POST /kruise/api/v2/sandboxes HTTP/1.1\r\nHost: {manager.domain}\r\nX-API-Key: {API_KEY}\r\n"
    with socket.create_connection(("127.0.0.1", manager.port), timeout=20) as connection:
        connection.sendall(f"{head}X-Request-Id: left-early\r\nContent-Length: 100\r\n\r\n{{".encode())
    assert line_of(manager, "left-early")["status"] == 499
    assert [line for line in log_of(manager) if line["level"] == "error"] == []


def test_the_sdk_reads_errors_with_an_id_as_before(manager: RunningManager) -> None:
    options = {"domain": manager.domain, "api_key": manager.api_key}
    with pytest.raises(NotFoundException):
        Sandbox.get_info("inobody", **options)
    with pytest.raises(SandboxException, match="400: Timeout must be greater than 0, got -1"):
        Sandbox.create(**options, timeout=-1)


def test_a_websocket_has_its_line_when_it_ends(manager: RunningManager) -> None:
    program = (Path(__file__).parents[1] / "programs" / "ws.py").read_text()
    with Sandbox.create(domain=manager.domain, api_key=manager.api_key) as sandbox:
        sandbox.files.write("ws.py", program)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        sandbox.commands.run(f"exec python ws.py {port}", background=True, timeout=0)
        host = sandbox.get_host(port)
        wait_for(lambda: httpx.get(f"http://{host}/ready").status_code == 200, 20, "the server")
        chosen = {"X-Request-Id": "socket-1"}
        with connect(f"ws://{host}/?{SECRETS['query']}", additional_headers=chosen, subprotocols=[CHAT]) as client:
            client.recv()
            assert client.response is not None
            assert client.response.headers.get_all("X-Request-Id") == ["socket-1"]
            assert not any(line.get("request_id") == "socket-1" for line in log_of(manager))
        line = line_of(manager, "socket-1")
    facts = [line[name] for name in ("method", "route", "status", "sandbox", "key")]
    assert facts == ["GET", f":{port}", 101, sandbox.sandbox_id, None]


def test_no_log_holds_a_secret_at_any_level(manager: RunningManager) -> None:
    options = {"domain": manager.domain, "api_key": manager.api_key}
    protected = {"security.agents.kruise.io/enable-jwt-auth": "true", "note": SECRETS["metadata"]}
    hidden = [API_KEY, *SECRETS.values()]
    with Sandbox.create(**options, metadata=protected) as sandbox:
        hidden += re.findall(r"eyJ[\w.-]+", str(vars(sandbox)))
    network: Any = {"allow_public_traffic": False}
    with Sandbox.create(
        **options, metadata={"note": SECRETS["metadata"]}, envs={"A": SECRETS["variable"]}, network=network
    ) as sandbox:
        sandbox.run_code(f"print({SECRETS['code']!r})")
        sandbox.files.write("a.txt", SECRETS["file"])
        sandbox.commands.run(f"echo {SECRETS['code']}", envs={"B": SECRETS["variable"]})
        token = sandbox.traffic_access_token
        assert token is not None
        secret = {"X-Secret": SECRETS["header"], "Authorization": f"Bearer {SECRETS['header']}"}
        url = f"http://{sandbox.get_host(9)}/{SECRETS['path']}?token={SECRETS['query']}"
        httpx.get(url, headers=secret | {"E2B-Traffic-Access-Token": token})
        httpx.get(sandbox.download_url("a.txt"))
        hidden += [token, str(sandbox._envd_access_token)]
        programs = [path.read_text() for path in manager.state_dir.glob("sandboxes/*/log")]
    with manager.api() as api:
        made = api.post("/api-keys", json={"name": SECRETS["metadata"]}).json()
        hidden.append(made["key"])
        httpx.get(f"{manager.api_url}/sandboxes", headers={"X-API-Key": SECRETS["key"]})
        api.get(f"/sandboxes?metadata=note%3D{SECRETS['metadata']}")
        last = api.post(f"/{SECRETS['path']}", content=f'{{"x": "{SECRETS["code"]}').headers["x-request-id"]
    line_of(manager, last)
    for text in (manager.log.read_text(), *programs):
        assert [secret for secret in hidden if secret in text] == []


@pytest.mark.live
def test_an_error_is_one_json_object_with_its_traceback_and_the_id_of_its_request(tmp_path: Path) -> None:
    broken = "from kruise_agents.manager.http.dispatch import ManagerApp\n"
    broken += "async def fail(*_): raise RuntimeError('broken on purpose')\nManagerApp._serve_api = fail"
    with running_manager(tmp_path, "--log-format", "json", prelude=broken) as manager:
        answer = httpx.get(f"{manager.api_url}/sandboxes")
        request_id = answer.headers["x-request-id"]
        line = line_of(manager, request_id)
        wait_for(lambda: "on purpose" in manager.log.read_text(), what="the error")
    assert (answer.status_code, line["status"]) == (500, 500)
    (error,) = [line for line in log_of(manager) if line["level"] == "error"]
    assert error["request_id"] == request_id
    assert error["exception"].endswith("RuntimeError: broken on purpose")


@pytest.mark.needs("namespaces")
def test_what_a_start_announces_is_json_too_and_shown_at_every_level(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("internet = true\n")
    options = ("--templates", str(tmp_path), "--no-internet", "--log-format", "json", "--log-level", "error")
    with running_manager(tmp_path, *options) as manager:
        (line,) = log_of(manager)
    assert line["level"] == "info"
    assert "'internet = true' has no effect" in line["message"]


@pytest.mark.live
def test_text_is_the_format_unless_another_one_is_asked_for(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        answer = httpx.get(f"{manager.api_url}/health", headers={"X-Request-Id": "plain"})
        wait_for(lambda: "request=plain" in manager.log.read_text(), what="the line")
    assert answer.headers["x-request-id"] == "plain"
    (line,) = [line for line in manager.log.read_text().splitlines() if "plain" in line]
    name = re.escape(logger.name)
    expected = rf"[0-9-]+ [0-9:,]+ INFO {name}: GET /health 200 [0-9.]+ ms sandbox=- key=- request=plain"
    assert re.fullmatch(expected, line)
