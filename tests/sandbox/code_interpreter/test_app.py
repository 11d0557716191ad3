"""The bytes on the wire: lines, statuses, texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from kruise_agents.sandbox.code_interpreter import streaming


@pytest.fixture
def client(served: Any) -> Iterator[httpx.Client]:
    with served.client() as made:
        yield made


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text[:-1].split("\n")]


def test_health_is_a_json_string(client: httpx.Client) -> None:
    answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, "OK")


def test_the_stream_begins_with_the_count_and_ends_with_the_end(client: httpx.Client) -> None:
    context_id = client.post("/contexts", json={}).json()["id"]
    received = lines(client.post("/execute", json={"code": "print('a')\n1+1", "context_id": context_id}))
    timestamp = received[1].pop("timestamp")
    assert timestamp.endswith("Z")
    assert received == [
        {"type": "number_of_executions", "execution_count": 1},
        {"type": "stdout", "text": "a\n"},
        {"type": "result", "text": "2", "is_main_result": True, "extra": {}},
        {"type": "end_of_execution"},
    ]


def test_a_synthetic_error_is_followed_by_the_end(client: httpx.Client) -> None:
    received = lines(client.post("/execute", json={"code": "import os; os._exit(1)"}))
    why = "The kernel was ended by the code, with exit code 1. Variables are lost; the next call works."
    assert received[-2:] == [
        {"type": "error", "name": "ContextRestarting", "value": "Context was restarted", "traceback": why},
        {"type": "end_of_execution"},
    ]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        (
            "POST",
            "/execute",
            {"code": "1", "context_id": "x", "language": "python"},
            400,
            "Only one of context_id or language can be provided",
        ),
        ("POST", "/execute", {"code": "1", "context_id": "x"}, 404, "Context x not found"),
        ("POST", "/contexts/x/restart", None, 404, "Context x not found"),
        ("DELETE", "/contexts/x", None, 404, "Context x not found"),
        (
            "POST",
            "/execute",
            {"code": "1", "language": "cobol"},
            400,
            "Failed to create context: there is no kernel for language 'cobol' in this sandbox: install a Jupyter "
            "kernel for it, with a kernel.json in /usr/share/jupyter/kernels",
        ),
        (
            "POST",
            "/contexts",
            {"language": " R "},
            400,
            "Failed to create context: there is no kernel for language 'r' in this sandbox: install R with IRkernel "
            "on the manager's machine, then IRkernel::installspec(user = FALSE)",
        ),
    ],
)
def test_errors_are_plain_text(client: httpx.Client, method: str, path: str, body: Any, status: int, text: str) -> None:
    answer = client.request(method, path, json=body)
    assert (answer.status_code, answer.text) == (status, text)
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"code": 1}',
        b'{"code": null}',
        b'{"code": "1", "context_id": 1}',
        b'{"code": "1", "language": []}',
        b'{"code": "1", "env_vars": []}',
        b'{"code": "1", "env_vars": {"A": 1}}',
        b"\xff",
    ],
)
def test_a_body_that_cannot_be_read_is_422(client: httpx.Client, body: bytes) -> None:
    assert client.post("/execute", content=body).status_code == 422


def test_wrong_types_of_a_new_context_are_422(client: httpx.Client) -> None:
    assert client.post("/contexts", json={"cwd": 1}).status_code == 422


def test_empty_values_and_unknown_keys_count_as_absent(client: httpx.Client) -> None:
    body = {"code": "1", "context_id": "", "language": "", "env_vars": None, "other": 1}
    assert lines(client.post("/execute?source=x", json=body))[-1] == {"type": "end_of_execution"}


def test_a_language_may_be_written_loosely(client: httpx.Client) -> None:
    assert lines(client.post("/execute", json={"code": "1", "language": " Python "}))[-2]["text"] == "1"


def test_restart_and_removal_answer_null(client: httpx.Client) -> None:
    made = client.post("/contexts", json={}).json()
    for answer in (client.post(f"/contexts/{made['id']}/restart"), client.delete(f"/contexts/{made['id']}")):
        assert (answer.status_code, answer.text) == (200, "null")


@pytest.mark.parametrize(("headers", "expected"), [({"E2b-Sandbox-Id": "x"}, True), ({}, False)])
def test_keepalives_are_for_clients_that_know_them(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], expected: bool
) -> None:
    monkeypatch.setattr(streaming, "KEEPALIVE_SECONDS", 0.1)
    answer = client.post("/execute", json={"code": "import time; time.sleep(0.6)"}, headers=headers)
    received = lines(answer)
    assert ({"type": "keepalive"} in received) is expected
    assert received[-1] == {"type": "end_of_execution"}


@pytest.fixture
def token(served: Any) -> Iterator[str]:
    """Give the sandbox an access token, as ``secure`` does, for one test."""
    served.state.access_token = "5ec2e7"
    yield served.state.access_token
    served.state.access_token = None


def test_code_of_a_secure_sandbox_runs_with_its_access_token_only(client: httpx.Client, token: str) -> None:
    order = {"code": "1 + 1"}
    for headers in ({}, {"X-Access-Token": ""}, {"X-Access-Token": token.upper()}):
        answer = client.post("/execute", json=order, headers=headers)
        assert answer.status_code == 401
        assert "X-Access-Token" in answer.text
        assert "secure=False" in answer.text
    received = lines(client.post("/execute", json=order, headers={"X-Access-Token": token}))
    assert received[1]["text"] == "2"


@pytest.mark.parametrize("path", ["/execute/", "//execute", "/%65xecute", "/contexts/../execute"])
def test_no_other_spelling_runs_code_without_the_token(client: httpx.Client, token: str, path: str) -> None:
    request = client.build_request("POST", "/execute", json={"code": "1 + 1"})
    request.url = request.url.copy_with(raw_path=path.encode())
    assert client.send(request, follow_redirects=True).status_code in (401, 404)


def test_a_wrong_token_opens_no_route_of_contexts_and_a_missing_one_does(client: httpx.Client, token: str) -> None:
    # No SDK since e2b-code-interpreter 2.9.0 sends the token to these routes, and no asynchronous one ever did.
    wrong = {"X-Access-Token": "wrong"}
    context = client.post("/contexts", json={}).json()["id"]
    for method, path in (
        ("POST", "/contexts"),
        ("GET", "/contexts"),
        ("POST", f"/contexts/{context}/restart"),
        ("DELETE", f"/contexts/{context}"),
    ):
        body: Any = {} if path == "/contexts" and method == "POST" else None
        assert client.request(method, path, headers=wrong, json=body).status_code == 401
        assert client.request(method, path, json=body).status_code == 200


def test_the_sdks_run_code_and_use_contexts_of_a_secure_sandbox(served: Any, token: str) -> None:
    sandbox = served.sandbox()
    context = sandbox.create_code_context()
    assert sandbox.run_code("1 + 1", context=context).text == "2"
    assert context.id in {listed.id for listed in sandbox.list_code_contexts()}
    sandbox.restart_code_context(context)
    sandbox.remove_code_context(context)


def test_a_page_of_any_origin_may_call_and_read_the_answer(client: httpx.Client, token: str) -> None:
    origin = {"Origin": "https://anywhere.example"}
    for answer in (client.get("/health", headers=origin), client.post("/execute", json={}, headers=origin)):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


SDK_HEADERS = "content-type,e2b-sandbox-id,e2b-sandbox-port,e2b-traffic-access-token,x-access-token"
"""The headers that @e2b/code-interpreter 2.8.0 sends from a page, as a browser asks for them."""


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "PATCH"])
@pytest.mark.parametrize("headers", [SDK_HEADERS, f"{SDK_HEADERS},x-api-key", "authorization"])
def test_a_page_may_send_what_the_javascript_sdk_sends_and_no_more(
    client: httpx.Client, method: str, headers: str
) -> None:
    asked = {
        "Origin": "https://anywhere.example",
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }
    answer = client.options("/contexts", headers=asked)
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    methods = {name.strip() for name in answer.headers["access-control-allow-methods"].split(",")}
    assert methods == {"GET", "POST", "DELETE"}
    assert allowed == set(SDK_HEADERS.split(",")) | {"accept", "accept-language", "content-language"}
    assert (answer.status_code == 200) is (headers == SDK_HEADERS and method in methods)
