"""A create whose template OpenKruise's manager does not have: the error lists the templates that are there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import e2b
import pytest

from kruise_agents.patch_e2b import patch_e2b
from support.recorder import Answer, Recorder

NOT_FOUND = Answer.json(400, {"code": 400, "message": "Template or Checkpoint not found"})
TEMPLATES = "GET /templates"
KEY = "e2b_1122"


def template(name: object) -> dict[str, object]:
    return {"templateID": name, "buildID": name, "aliases": [name], "names": [name], "public": True}


def without_explanation(error: Exception) -> str:
    text, _, explanation = str(error).partition("\nkruise-agents: ")
    assert "SandboxSets" in explanation
    return text


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A manager without v2 routes, in which no template is found."""
    v2 = Answer.text(405, "Method Not Allowed\n", Allow="GET, HEAD")
    with Recorder(special={"POST /v2/sandboxes": [v2], "POST /sandboxes": [NOT_FOUND]}) as server:
        monkeypatch.setenv("E2B_DOMAIN", server.domain)
        monkeypatch.setattr("kruise_agents.client.addresses.v1_bridge._known", {})
        patch_e2b(False)
        yield server


def create_sync(**options: Any) -> Any:
    return e2b.Sandbox.create(api_key=KEY, **options)


def create_async(**options: Any) -> Any:
    return asyncio.run(e2b.AsyncSandbox.create(api_key=KEY, **options))


in_both_ways = pytest.mark.parametrize("create", [create_sync, create_async])


@in_both_ways
def test_the_error_lists_the_templates(create: Callable[..., Any], server: Recorder) -> None:
    server.special[TEMPLATES] = [Answer.json(200, [template("py-data"), template("code-interpreter")])]
    with pytest.raises(e2b.SandboxException) as caught:
        create(template="code-interpreter-v1")
    assert type(caught.value) is e2b.SandboxException
    expected = "400: Template or Checkpoint not found; this manager has: code-interpreter, py-data"
    assert without_explanation(caught.value) == expected


@in_both_ways
def test_the_list_is_asked_for_once_with_the_same_credentials(create: Callable[..., Any], server: Recorder) -> None:
    server.special[TEMPLATES] = [Answer.json(200, [])]
    with pytest.raises(e2b.SandboxException, match="this manager has: none"):
        create()
    *_, refused, question = server.requests
    assert server.api_calls[-2:] == ["POST /sandboxes", TEMPLATES]
    assert (question.api_key, question.host, question.body) == (KEY, refused.host, b"")
    assert not {"content-type", "content-length", "transfer-encoding", "idempotency-key"} & question.headers.keys()


@in_both_ways
@pytest.mark.parametrize(
    "answer",
    [
        Answer.json(401, {"code": 401, "message": "Invalid API Key"}),
        Answer.json(500, [template("a")]),
        Answer.text(404, "404 page not found\n"),
        Answer.text(200, "<html>"),
        Answer.json(200, {"templates": []}),
        pytest.param(Answer(200, b"[" * 100_000, {"Content-Type": "application/json"}), id="too deep"),
        Answer(200, b"[]", {"Transfer-Encoding": "chunked"}),  # breaks the connection
    ],
    ids=str,
)
def test_without_a_list_the_error_stays(answer: Answer, create: Callable[..., Any], server: Recorder) -> None:
    server.special[TEMPLATES] = [answer]
    with pytest.raises(e2b.SandboxException) as caught:
        create()
    assert without_explanation(caught.value) == "400: Template or Checkpoint not found"


def test_a_long_list_is_cut_and_names_that_no_terminal_should_see_are_left_out(server: Recorder) -> None:
    names = [*(f"t{number:02}" for number in range(22)), "\x1b[2J", "x" * 300]
    server.special[TEMPLATES] = [Answer.json(200, [*map(template, [*names, None, 7, ["t"]]), {}, None, "t"])]
    with pytest.raises(e2b.SandboxException, match=r"has: t00, t01, .*, t19 and 2 more\n"):
        create_sync()


@in_both_ways
def test_no_other_refusal_leads_to_a_question(create: Callable[..., Any], server: Recorder) -> None:
    server.special["POST /sandboxes"] = [Answer.json(400, {"code": 400, "message": "timeout should between 30 and 60"})]
    with pytest.raises(e2b.SandboxException, match="400: timeout should"):
        create()
    assert TEMPLATES not in server.api_calls
