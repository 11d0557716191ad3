"""Messages to and from a kernel: which are taken for its own, and what is left of output behind a mark."""

from __future__ import annotations

from pathlib import Path

import pytest

from kruise_agents.sandbox.code_interpreter.jupyter_messages import Endpoint, Message
from kruise_agents.sandbox.code_interpreter.late_output import LateOutput

PORTS = (1, 2, 3, 4, 5)


def test_a_message_goes_there_and_back() -> None:
    endpoint = Endpoint(Path("/k"), PORTS)
    message = endpoint.unpack([b"topic", *endpoint.pack("stream", {"name": "stdout", "text": "é"}, "1")])
    assert (message.kind, message.content, message.parent) == ("stream", {"name": "stdout", "text": "é"}, "")


def test_a_message_of_somebody_else_on_a_kernels_port_is_refused() -> None:
    frames = Endpoint(Path("/k"), PORTS).pack("stream", {"name": "stdout", "text": "forged"}, "1")
    with pytest.raises(ValueError, match="did not sign"):
        Endpoint(Path("/k"), PORTS).unpack(frames)
    assert Endpoint(Path("/k")).unpack(frames).kind == "stream"


def stream(name: str, text: str, parent: str = "cell") -> Message:
    return Message(kind="stream", parent=parent, date="", content={"name": name, "text": text})


def reply(status: str) -> Message:
    return Message(kind="execute_reply", parent="mark", date="", content={"status": status})


def test_output_is_late_until_both_marks_and_the_reply_have_come() -> None:
    late = LateOutput("mark")
    before = stream("stdout", "late\n")
    assert late.strip(before) is before
    assert late.strip(stream("stdout", late.mark, "mark")) is None
    assert late.strip(reply("ok")) is None
    assert not late.finished
    joined = late.strip(stream("stderr", f"e\n{late.mark}"))
    assert joined is not None
    assert joined.content == {"name": "stderr", "text": "e\n"}
    assert late.finished


def test_a_mark_that_could_not_be_written_is_not_waited_for() -> None:
    late = LateOutput("mark")
    assert late.strip(reply("error")) is None
    assert late.finished


def test_results_of_the_cell_pass_and_those_of_the_mark_do_not() -> None:
    late = LateOutput("mark")
    result = Message(kind="execute_result", parent="cell", date="", content={"data": {}})
    assert late.strip(result) is result
    assert late.strip(Message(kind="execute_result", parent="mark", date="", content={"data": {}})) is None
