"""Commands and terminals of a whole sandbox, through the manager."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from e2b import CommandExitException, SandboxException, TimeoutException
from e2b.sandbox.commands.command_handle import PtySize
from e2b_code_interpreter import AsyncSandbox, Sandbox

from support.managers import RunningManager, processes_with, wait_for

isolated = pytest.mark.needs("namespaces")  # without them, process ids are the host's


class Screen:
    """The output of a terminal."""

    def __init__(self, sandbox: Sandbox, rows: int = 24, columns: int = 80, **variables: str) -> None:
        self._pty = sandbox.pty
        self.handle = sandbox.pty.create(PtySize(rows, columns), envs=variables, timeout=60)
        self._events = iter(self.handle)
        self._shown = b""

    def type(self, keys: str) -> None:
        self._pty.send_stdin(self.handle.pid, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        self._pty.resize(self.handle.pid, PtySize(rows, columns))

    def read_until(self, text: str) -> None:
        while text.encode() not in self._shown:
            self._shown += next(self._events)[2] or b""
        self._shown = self._shown.partition(text.encode())[2]


def test_five_hundred_commands_in_a_row(sandbox: Sandbox) -> None:
    for number in range(500):
        result = sandbox.commands.run(f"echo {number}; echo {-number} >&2")
        assert (result.stdout, result.stderr) == (f"{number}\n", f"{-number}\n")
    assert sandbox.commands.list() == []


def test_a_hundred_commands_at_once(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(100) as pool:
        found = list(pool.map(lambda number: sandbox.commands.run(f"echo {number}", timeout=0).stdout, range(100)))
    assert found == [f"{number}\n" for number in range(100)]
    assert sandbox.commands.list() == []


def test_a_hundred_commands_at_once_in_one_event_loop(manager: RunningManager, sandbox: Sandbox) -> None:
    async def run() -> list[str]:
        same = await AsyncSandbox.connect(sandbox.sandbox_id, domain=manager.domain, api_key=manager.api_key)
        running = (same.commands.run(f"read x; echo {number}", timeout=0) for number in range(100))
        return [result.stdout for result in await asyncio.gather(*running)]

    # Without stdin: `read` ends at once.
    assert asyncio.run(run()) == [f"{number}\n" for number in range(100)]


@isolated
def test_no_process_is_left_and_no_zombie(sandbox: Sandbox) -> None:
    """This includes killed processes, orphans, and processes that ended without a listener."""
    sandbox.run_code("1")  # the kernel has its name
    before = processes(sandbox)
    sandbox.commands.run("(sleep 0.01 &) ; true")
    sandbox.commands.run("setsid sleep 0.01 >/dev/null 2>&1 & ")
    for _ in range(5):
        handle = sandbox.commands.run("sleep 600", background=True)
        handle.disconnect()
        assert sandbox.commands.kill(handle.pid)
        assert gone(sandbox, handle.pid)
    handle = sandbox.commands.run("exit 3", background=True)
    with contextlib.suppress(CommandExitException):
        handle.wait()
    assert gone(sandbox, handle.pid)
    wait_for(lambda: processes(sandbox) == before, what="the end of the orphans")


def gone(sandbox: Sandbox, pid: int) -> bool:
    return sandbox.commands.run(f"kill -0 {pid} 2>/dev/null || echo gone", user="root").stdout == "gone\n"


def processes(sandbox: Sandbox) -> list[str]:
    """Return the names of all running processes but this command's own, and mark zombies."""
    lines = sandbox.commands.run("ps -e -o stat=,comm=,args=").stdout.splitlines()
    states = [line.split()[:2] for line in lines if "ps -e" not in line]
    return sorted(f"{name} (zombie)" if state.startswith("Z") else name for state, name in states)


def test_several_listeners_of_a_background_command_get_the_same(sandbox: Sandbox) -> None:
    first = sandbox.commands.run("read; seq 20000; read; exit 4", background=True, stdin=True, timeout=0)
    handles = [first] + [sandbox.commands.connect(first.pid, timeout=0) for _ in range(4)]
    ends: list[tuple[int, list[str]]] = []

    def listen(handle: Any) -> None:
        with pytest.raises(CommandExitException) as raised:
            handle.wait()
        ends.append((raised.value.exit_code, raised.value.stdout.split()))

    threads = [threading.Thread(target=listen, args=(handle,)) for handle in handles]
    for thread in threads:
        thread.start()
    sandbox.commands.send_stdin(first.pid, "\n\n")
    for thread in threads:
        thread.join(60)
    assert ends == [(4, [str(number) for number in range(1, 20001)])] * 5


def test_a_background_command_outlives_its_client(manager: RunningManager, sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("read x; echo got $x", background=True, stdin=True, timeout=0)
    handle.disconnect()
    other = Sandbox.connect(sandbox.sandbox_id, domain=manager.domain, api_key=manager.api_key)
    joined = other.commands.connect(handle.pid, timeout=0)
    other.commands.send_stdin(handle.pid, "it\n")
    assert joined.wait().stdout == "got it\n"


@pytest.mark.skipif(shutil.which("less") is None, reason="less is not installed here")
def test_less_follows_the_window(sandbox: Sandbox) -> None:
    sandbox.files.write("lines", "".join(f"line {number}.\n" for number in range(1, 201)))
    screen = Screen(sandbox, LESS="")
    screen.type("less lines; echo left-$((1+1))\n")
    screen.read_until("\x1b[?1049h")
    screen.read_until("line 23.")
    screen.resize(50, 100)
    screen.type("r")  # less may miss the signal just before it waits for a key
    screen.read_until("line 49.")
    screen.type("G")
    screen.read_until("line 200.")
    screen.type("q")
    screen.read_until("\x1b[?1049l")
    screen.read_until("left-2\r\n")
    screen.type("exit\n")
    assert screen.handle.wait().exit_code == 0


@isolated
@pytest.mark.skipif(shutil.which("top") is None, reason="top is not installed here")
def test_top_shows_the_sandbox_alone(sandbox: Sandbox) -> None:
    screen = Screen(sandbox, 40, 120)
    screen.type("top; echo left-$((1+1))\n")
    screen.read_until("PID")
    screen.read_until("envd")
    screen.resize(20, 60)
    screen.read_until("PID")
    screen.type("q")
    screen.read_until("left-2\r\n")
    screen.type("exit 7\n")
    with pytest.raises(CommandExitException) as raised:
        screen.handle.wait()
    assert raised.value.exit_code == 7


def test_a_terminal_has_job_control_colours_and_control_keys(sandbox: Sandbox) -> None:
    screen = Screen(sandbox)
    screen.type("test -t 0 && test -t 1 && tput setaf 1 && echo red-$((1+1))\n")
    screen.read_until("\x1b[31mred-2\r\n")
    screen.type("sh -c 'echo begun-$((1+1)); exec sleep 600'\n")
    screen.read_until("begun-2\r\n")  # before that, the key would go to the shell
    screen.type("\x1a")
    screen.read_until("Stopped")
    screen.type("kill %1; wait; echo next-$((1+1))\n")
    screen.read_until("next-2\r\n")
    screen.type("sh -c 'echo up-$((1+1)); exec cat'\n")
    screen.read_until("up-2\r\n")  # before that, the shell may hold the terminal in its own mode
    screen.type("typed\n\x04")
    screen.read_until("typed\r\ntyped\r\n")
    screen.type("sh -c 'echo ready-$((1+1)); exec sleep 600'\n")
    screen.read_until("ready-2\r\n")
    screen.type("\x03")
    screen.type("echo code-$?; exit\n")
    screen.read_until("code-130\r\n")
    assert screen.handle.wait().exit_code == 0


def test_each_time_out_has_its_own_meaning(sandbox: Sandbox) -> None:
    """The time-out of ``run`` ends the process, of ``connect`` the listening, and of a request the request."""
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 600", timeout=0.5)
    wait_for(lambda: sandbox.commands.list() == [])
    handle = sandbox.commands.run("sleep 2; head -c 1000001 | wc -c", background=True, stdin=True, timeout=0)
    with pytest.raises(TimeoutException):
        sandbox.commands.connect(handle.pid, timeout=0.3).wait()
    with pytest.raises(TimeoutException):
        sandbox.commands.send_stdin(handle.pid, "x" * 1_000_000, request_timeout=0.3)
    assert [process.pid for process in sandbox.commands.list()] == [handle.pid]
    assert handle.kill()


@isolated
def test_whatever_hides_from_signals_ends_with_the_sandbox(manager: RunningManager, patched: None) -> None:
    with Sandbox.create(domain=manager.domain, api_key=manager.api_key) as sandbox:
        stubborn = "sh -c 'trap \"\" TERM INT HUP; while :; do sleep 971250; done'"
        sandbox.commands.run(f"nohup setsid {stubborn} >/dev/null 2>&1 & disown", background=True, timeout=0)
        sandbox.commands.run("sleep 971251 & kill -STOP $!; kill -STOP $$", background=True, timeout=0)
        sandbox.commands.run("setsid sleep 971252 >/dev/null 2>&1 &", user="root")
        terminal = sandbox.pty.create(PtySize(24, 80), timeout=0)
        sandbox.pty.send_stdin(terminal.pid, b"sleep 971253 & sudo sleep 971254\n")
        for number in range(5):
            wait_for(partial(processes_with, f"sleep 97125{number}"))
        sandbox.kill()
        assert processes_with("sleep 97125") == []


def test_variables_of_the_sandbox_and_of_the_call(manager: RunningManager, patched: None) -> None:
    odd = "a = 'b'\n\"c\" $HOME \\ ü"
    variables = {"FOR_ALL": "sandbox", "ODD": odd, "EMPTY": "", "E2B_SANDBOX": "no"}
    with Sandbox.create(envs=variables, domain=manager.domain, api_key=manager.api_key) as sandbox:
        show = 'printf "%s|%s|%s|%s|%s" "$FOR_ALL" "$ODD" "${EMPTY-unset}" "$E2B_SANDBOX" "$CALL"'
        assert sandbox.commands.run(show).stdout == f"sandbox|{odd}||true|"
        called = sandbox.commands.run(show, envs={"FOR_ALL": "call", "CALL": "x", "E2B_SANDBOX": "y"})
        assert called.stdout == f"call|{odd}||y|x"
        assert sandbox.commands.run(show, user="root").stdout == f"sandbox|{odd}||true|"
        screen = Screen(sandbox, FOR_ALL="terminal")
        screen.type('echo "=$FOR_ALL=$E2B_SANDBOX="; exit\n')
        screen.read_until("=terminal=true=\r\n")
        assert screen.handle.wait().exit_code == 0


def test_thousands_of_variables_and_long_ones(sandbox: Sandbox) -> None:
    variables = {f"V{number}": str(number) for number in range(5000)}
    assert sandbox.commands.run("echo $V0 $V4999; env | grep -c ^V", envs=variables).stdout == "0 4999\n5000\n"
    assert sandbox.commands.run("echo ${#LONG}", envs={"LONG": "x" * 130_000}).stdout == "130000\n"
    with pytest.raises(Exception, match="argument list too long"):
        sandbox.commands.run("true", envs={"TOO_LONG": "x" * 200_000})


@isolated
def test_killing_everything_but_envd_costs_what_was_killed_and_nothing_else(sandbox: Sandbox) -> None:
    """The kernel is killed too. The servers of commands, files, ports and sudo are all in envd."""
    sandbox.files.write("kept", "1")
    sandbox.run_code("x = 1")
    running = sandbox.commands.run("sleep 600", background=True, timeout=0)
    terminal = sandbox.pty.create(PtySize(24, 80), timeout=0)
    kill_all = """for p in /proc/[0-9]*; do
        p=${p#/proc/}
        [ $p -gt 2 ] && [ $p != $$ ] && [ "$(cat /proc/$p/comm)" != envd ] && kill -9 $p
    done; true"""
    sandbox.commands.run(kill_all, user="root")
    for handle in (running, terminal):
        with pytest.raises(CommandExitException) as raised:
            handle.wait()
        assert raised.value.error == "signal: killed"
    assert sandbox.commands.list() == []
    assert sandbox.commands.run("sudo cat kept").stdout == "1"
    wait_for(lambda: sandbox.run_code("1 + 1").text == "2", 20, "a new kernel")


def test_hundreds_of_changes_at_once_below_one_folder_never_mix(sandbox: Sandbox) -> None:
    """Each call does the whole of its change, or says why not."""

    def change(number: int) -> set[str]:
        chance = random.Random(number)
        said = set()
        for _ in range(30):
            one, other = (f"t/{chance.randrange(4)}/{chance.randrange(3)}" for _ in range(2))
            action = chance.choice(
                [
                    lambda: sandbox.files.make_dir(one),  # noqa: B023 - called at once
                    lambda: sandbox.files.rename(one, other),  # noqa: B023 - called at once
                    lambda: sandbox.files.remove(one),  # noqa: B023 - called at once
                    lambda: sandbox.files.write(f"{one}/f", "x" * 1000),  # noqa: B023 - called at once
                ]
            )
            try:
                action()
            except SandboxException as error:
                said.add(str(error))
        return said

    with ThreadPoolExecutor(8) as pool:
        said = set().union(*pool.map(change, range(8)))
    sizes = [entry.size for entry in sandbox.files.list("t", depth=9) if entry.name == "f"]
    assert set(sizes) <= {1000}
    reasons = ("directory not empty", "no such file or directory", "invalid argument")
    assert [text for text in said if not text.endswith(reasons)] == []


def test_a_listener_at_the_moment_of_the_end_gets_the_end(sandbox: Sandbox) -> None:
    def once(number: int) -> None:
        first = sandbox.commands.run(f"sleep 0.0{number % 4}; echo out; exit 7", background=True, timeout=60)
        for handle in [sandbox.commands.connect(first.pid, timeout=60) for _ in range(3)] + [first]:
            with pytest.raises(CommandExitException) as raised:
                handle.wait()
            assert raised.value.exit_code == 7
            assert raised.value.stdout in ({"out\n"} if handle is first else {"out\n", ""})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(once, range(80)))


def test_binary_input_waits_for_its_reader_and_arrives_whole(sandbox: Sandbox) -> None:
    data = random.Random(1).randbytes(4_000_000)
    handle = sandbox.commands.run("read -r; sha256sum", background=True, stdin=True, timeout=0)
    sandbox.commands.send_stdin(handle.pid, b"\n" + data)
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout.split()[0] == hashlib.sha256(data).hexdigest()
