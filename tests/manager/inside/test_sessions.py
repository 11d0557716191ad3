"""Sessions and process groups of commands: as envd starts commands, and without harm to the sandbox's program."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from e2b import CommandExitException, Sandbox
from e2b.sandbox.commands.command_handle import PtySize

from support.managers import (
    NO_IDENTITIES,
    RunningManager,
    available_runtime,
    one_user_because,
    processes_with,
    running_manager,
    wait_for,
)

pytestmark = pytest.mark.live
SHOW = "ps -o pid=,pgid=,sid= -p $$; ps -o pgid=,sid= -p $PPID; true"


@pytest.fixture(scope="module", params=["several users", "one user", "no isolation"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    if request.param == "several users" and (reason := one_user_because()):
        pytest.skip(f"sandboxes have one user: {reason}")
    if request.param == "one user" and available_runtime() != "bubblewrap":
        pytest.skip("this machine permits no namespaces")
    runtime = "process" if request.param == "no isolation" else None
    prelude = NO_IDENTITIES if request.param == "one user" else ""
    with running_manager(tmp_path_factory.mktemp("sessions"), runtime=runtime, prelude=prelude) as running:
        yield running


@pytest.fixture
def sandbox(kind: RunningManager, patched: None) -> Iterator[Sandbox]:
    with Sandbox.create("base", domain=kind.domain, api_key=kind.api_key) as running:
        yield running


def code_of(sandbox: Sandbox, command: str, user: str | None = None) -> int:
    try:
        return sandbox.commands.run(command, user=user).exit_code
    except CommandExitException as error:
        return error.exit_code


@pytest.mark.parametrize("user", ["user", "root"])
def test_setsid_waits_for_its_program(sandbox: Sandbox, user: str) -> None:
    commands = {
        "setsid true": 0,
        "setsid false": 1,
        "setsid sh -c 'exit 3'": 3,
        "setsid -w false": 1,
        "sudo setsid sh -c 'exit 4'": 4,
        "timeout 60 setsid false": 1,
    }
    assert {command: code_of(sandbox, command, user) for command in commands} == commands
    assert sandbox.commands.run("setsid sh -c 'sleep 0.2; echo out; echo err >&2'").stdout == "out\n"


def test_commands_share_the_session_of_the_program_and_a_terminal_has_its_own(sandbox: Sandbox) -> None:
    shown = [sandbox.commands.run(SHOW, user=user).stdout.split() for user in ("user", "user", "root")]
    assert len({tuple(numbers) for _, *numbers in shown}) == 1
    for pid, group, session, programs_group, programs_session in shown:
        assert session == programs_session
        assert group != programs_group, "a signal to the group of either would reach the other"
        assert pid not in (group, session)
    # The output of the whole terminal: what is typed is shown as well.
    terminal = sandbox.pty.create(PtySize(24, 200), timeout=60)
    sandbox.pty.send_stdin(terminal.pid, b"exec ps -o pid=,pgid=,sid= -p $$\n")
    output: list[bytes] = []
    assert terminal.wait(on_pty=output.append).exit_code == 0
    assert b"".join(output).split()[-3:] == [str(terminal.pid).encode()] * 3


def test_a_terminal_that_is_read_and_written_as_a_file_is_not_the_programs(sandbox: Sandbox) -> None:
    """The end of a program's own terminal would end the program, and with it the sandbox."""
    code = "import os, pty; m, s = pty.openpty(); os.write(m, b'typed\\n'); print(os.ttyname(s), flush=True); input()"
    handle = sandbox.commands.run(f'python -c "{code}"', background=True, stdin=True, timeout=60)
    terminal = next(out for out, _, _ in handle if out).strip()
    assert sandbox.files.read(terminal, user="root") == "typed\n"
    sandbox.files.write(terminal, "shown", user="root")
    assert sandbox.commands.run("ps -o tty= -p $PPID").stdout.strip() == "?"
    sandbox.commands.send_stdin(handle.pid, "\n")
    assert handle.wait().exit_code == 0
    assert sandbox.is_running()


@pytest.mark.parametrize("user", ["user", "root"])
def test_a_signal_to_the_group_of_a_command_spares_the_program(sandbox: Sandbox, user: str) -> None:
    kept = sandbox.files.write("kept", "1").path
    terminal = sandbox.pty.create(PtySize(24, 80), timeout=60)
    # Bash loses a signal to a child that has not yet become its program.
    started = 'until [ "$(ps -o comm= -p $!)" = sleep ]; do :; done'
    for command in ("kill 0; sleep 60", f"trap 'kill 0' EXIT; sleep 60 & {started}", "kill -9 0; sleep 60"):
        assert code_of(sandbox, command, user) in (-1, 143)
        assert sandbox.commands.run(f"cat {kept}", user=user).stdout == "1"
        assert code_of(sandbox, "setsid false", user) == 1
    assert [process.pid for process in sandbox.commands.list()] == [terminal.pid]


def test_kill_ends_the_command_alone_and_the_end_of_the_sandbox_everything(kind: RunningManager, patched: None) -> None:
    with Sandbox.create("base", domain=kind.domain, api_key=kind.api_key) as sandbox:
        left = {
            971261: sandbox.commands.run("sleep 971261 & wait", background=True, timeout=60),
            971262: sandbox.commands.run("setsid sleep 971262 & wait", background=True, timeout=60),
            971263: sandbox.commands.run(
                "(setsid sh -c 'sleep 971263; true' &); sleep 60", background=True, timeout=60
            ),
            971264: sandbox.commands.run("sudo sleep 971264 & wait", background=True, timeout=60),
        }
        for marker, handle in left.items():
            wait_for(partial(processes_with, f"sleep {marker}"))
            assert handle.kill()
            assert processes_with(f"sleep {marker}")
        assert sandbox.commands.list() == []
        sandbox.commands.run("sleep 971265 & setsid sleep 971266", background=True, timeout=60)
        wait_for(lambda: processes_with("sleep 971265") and processes_with("sleep 971266"))
        assert sandbox.kill()
        assert processes_with("sleep 97126") == []
