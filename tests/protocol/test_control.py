"""Messages between manager and program, which both sides and an earlier release read as they were written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kruise_agents.protocol.control import (
    ANNOUNCE_KILL,
    GET_VARIABLES,
    INIT,
    PREPARE,
    SET_END_TIME,
    EndTime,
    ForkOrder,
    ForkRequest,
    InitSettings,
    KillNotice,
    Message,
    PrepareOrder,
    ProgramArguments,
    ProgramDescriptors,
    ProgramLimits,
    ReadyCheck,
    Variables,
    decode_port,
    encode_port,
    program_argv,
    program_command,
)

MESSAGES: list[tuple[Message, object]] = [
    (InitSettings("token", {"A": "b"}, 1.5), {"accessToken": "token", "envVars": {"A": "b"}, "secondsLeft": 1.5}),
    (InitSettings(None, {}, None), {"accessToken": None, "envVars": {}, "secondsLeft": None}),
    (EndTime(None), {"secondsLeft": None}),
    (Variables({"A": "b"}), {"envVars": {"A": "b"}}),
    (KillNotice(7, "too large"), {"pid": 7, "why": "too large"}),
    (PrepareOrder({}, None, None, kernel=True), {"envVars": {}, "start": None, "ready": None, "kernel": True}),
    (
        PrepareOrder({"A": "b"}, "serve", ReadyCheck(port=80), kernel=False),
        {
            "envVars": {"A": "b"},
            "start": "serve",
            "ready": {"command": None, "port": 80, "url": None, "seconds": 30.0},
            "kernel": False,
        },
    ),
]


@pytest.mark.parametrize(("message", "values"), MESSAGES)
def test_messages_are_read_back_and_have_the_keys_that_running_sandboxes_know(message: Message, values: object) -> None:
    assert json.loads(message.to_json()) == values
    assert type(message).from_json(message.to_json()) == message


def test_routes_are_those_that_running_sandboxes_know() -> None:
    assert [*PREPARE, *INIT, *SET_END_TIME] == ["POST", "/prepare", "POST", "/init", "POST", "/end-time"]
    assert [*GET_VARIABLES, *ANNOUNCE_KILL] == ["GET", "/variables", "POST", "/killing"]


def test_a_message_without_one_of_its_keys_is_refused() -> None:
    with pytest.raises(KeyError, match="secondsLeft"):
        EndTime.from_json(b"{}")


def test_a_fork_reads_what_the_manager_asks_for() -> None:
    request = ForkRequest(ForkOrder(["python"], {"A": "b"}, "/home", kernel=True), 7, has_group=True, numbers=[0, 1, 2])
    assert ForkRequest.from_json(request.to_json()) == request
    assert request.own_count == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ProgramArguments("user", Path("/home/user"), "/bin", Path("/p"), ProgramDescriptors(0, 3, 4, 5)),
        ProgramArguments(
            *("user", Path("/h"), "/bin:/usr/bin", Path("/p"), ProgramDescriptors(3, 4, 5, 6, 7)),
            ProgramLimits(1, 2),
            several_users=True,
            isolated=True,
            own_init=True,
        ),
    ],
)
def test_the_program_reads_its_arguments_from_its_command(arguments: ProgramArguments) -> None:
    program, *argv = program_argv(program_command("python", arguments))
    assert program == "kruise_agents.sandbox"
    assert ProgramArguments.parse(argv) == arguments


def test_a_command_without_what_the_program_needs_is_refused() -> None:
    with pytest.raises(TypeError, match="envd"):
        ProgramDescriptors.from_options({"--parent-pipe-fd": "3", "--control-fd": "4", "--relay-fd": "5"})


@pytest.mark.parametrize("port", [1, 80, 65535])
def test_the_relay_reads_the_port_that_the_manager_writes(port: int) -> None:
    assert decode_port(encode_port(port)) == port
