"""Every row of the table from Jupyter messages to lines, without a kernel."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kruise_agents.sandbox.code_interpreter.execution import Transcript
from kruise_agents.sandbox.code_interpreter.jupyter_messages import Message
from kruise_agents.sandbox.code_interpreter.lines import encoded

DATE = "2026-01-31T10:00:00.123456Z"
FAILURE = {"status": "error", "ename": "E", "evalue": "v", "traceback": ["a", "b"]}
FAILURE_LINE = {"type": "error", "name": "E", "value": "v", "traceback": "a\nb"}


def message(kind: str, **content: Any) -> Message:
    return Message(kind=kind, parent="1", date=DATE, content=content)


def lines(transcript: Transcript, *messages: Message) -> list[dict[str, Any]]:
    return [line for one in messages for line in transcript.lines(one)]


@pytest.mark.parametrize(
    ("received", "line"),
    [
        (
            message("execute_input", code="1", execution_count=3),
            {"type": "number_of_executions", "execution_count": 3},
        ),
        (
            message("stream", name="stdout", text="a\n"),
            {"type": "stdout", "text": "a\n", "timestamp": DATE},
        ),
        (
            message("stream", name="stderr", text="e"),
            {"type": "stderr", "text": "e", "timestamp": DATE},
        ),
        (
            message("display_data", data={"text/html": "x"}, metadata={"a": 1}),
            {"type": "result", "is_main_result": False, "html": "x", "extra": {}},
        ),
        (
            message("execute_result", data={"text/plain": "2"}, metadata={}, execution_count=1),
            {"type": "result", "is_main_result": True, "text": "2", "extra": {}},
        ),
        (message("error", **FAILURE), FAILURE_LINE),
        (message("execute_reply", **FAILURE), FAILURE_LINE),
        (
            message("execute_reply", status="aborted"),
            {"type": "error", "name": "ExecutionAborted", "value": "Execution was aborted", "traceback": ""},
        ),
        (
            message("execute_reply", status="abort"),
            {"type": "error", "name": "ExecutionAborted", "value": "Execution was aborted", "traceback": ""},
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Message) else "",
)
def test_a_message_becomes_a_line(received: Message, line: dict[str, Any]) -> None:
    assert lines(Transcript(), received) == [line]


@pytest.mark.parametrize(
    "received",
    [
        message("update_display_data", data={"text/plain": "x"}),
        message("clear_output", wait=False),
        message("input_request", prompt="", password=False),
        message("comm_open", comm_id="1"),
        message("comm_msg", comm_id="1"),
        message("comm_close", comm_id="1"),
        message("status", execution_state="busy"),
        message("execute_reply", status="ok"),
        message("stream", name="other", text="x"),
    ],
    ids=lambda value: value.kind,
)
def test_other_messages_say_nothing(received: Message) -> None:
    assert lines(Transcript(), received) == []


def test_an_error_is_told_once() -> None:
    received = [message("error", **FAILURE), message("execute_reply", **FAILURE)]
    assert lines(Transcript(), *received) == [FAILURE_LINE]


def test_idle_ends_only_what_was_accepted() -> None:
    transcript = Transcript()
    lines(transcript, message("status", execution_state="idle"))
    assert not transcript.finished
    lines(transcript, message("execute_input", code="", execution_count=1))
    assert transcript.finished


def test_an_aborted_request_is_finished_without_having_been_accepted() -> None:
    transcript = Transcript()
    lines(transcript, message("execute_reply", status="aborted"))
    assert transcript.finished


def test_a_line_never_contains_what_a_client_takes_for_its_end() -> None:
    text = "a\nb\u2028c\x85d\x0be\ud800é"
    line = encoded({"type": "stdout", "text": text})
    assert line.decode().splitlines() == [line.decode()[:-1]]
    assert json.loads(line)["text"] == text
