"""Pseudo-terminals."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from e2b import CommandExitException, NotFoundException, Sandbox
from e2b.sandbox.commands.command_handle import PtySize

SIZE = PtySize(rows=24, cols=80)


class Screen:
    """What a terminal has shown."""

    def __init__(self, handle: Any) -> None:
        self._events = iter(handle)
        self.shown = b""

    def read_until(self, text: bytes) -> None:
        while text not in self.shown:
            _, _, data = next(self._events)
            self.shown += data or b""
        self.shown = self.shown.partition(text)[2]


def test_a_shell_in_a_terminal(sandbox: Sandbox) -> None:
    handle = sandbox.pty.create(SIZE, envs={"PS1": "$ "}, timeout=60)
    screen = Screen(handle)
    sandbox.pty.send_stdin(handle.pid, b"stty size; tty; echo $TERM-$((1+1))\n")
    screen.read_until(b"24 80\r\n/dev/pts/")
    screen.read_until(b"xterm-256color-2\r\n")
    sandbox.pty.send_stdin(handle.pid, b"exit\n")
    assert handle.wait().exit_code == 0


def test_the_window_can_be_resized(sandbox: Sandbox) -> None:
    handle = sandbox.pty.create(SIZE, timeout=60)
    screen = Screen(handle)
    sandbox.pty.send_stdin(handle.pid, b"trap 'echo changed-$((2+2)); stty size' WINCH; echo ready-$((1+1))\n")
    screen.read_until(b"ready-2\r\n")
    sandbox.pty.resize(handle.pid, PtySize(rows=40, cols=100))
    sandbox.pty.send_stdin(handle.pid, b"\n")
    screen.read_until(b"changed-4\r\n40 100\r\n")
    assert sandbox.pty.kill(handle.pid)


def test_control_c_interrupts_and_control_d_ends(sandbox: Sandbox) -> None:
    handle = sandbox.pty.create(SIZE, timeout=60)
    screen = Screen(handle)
    sandbox.pty.send_stdin(handle.pid, b"sh -c 'echo go-$((1+1)); exec sleep 60'\n")
    screen.read_until(b"go-2\r\n")
    sandbox.pty.send_stdin(handle.pid, b"\x03")
    screen.read_until(b"^C")
    sandbox.pty.send_stdin(handle.pid, b"sh -c 'echo next-$((1+1)); exec cat'\n")
    screen.read_until(b"next-2\r\n")
    sandbox.pty.send_stdin(handle.pid, b"\x04")
    sandbox.pty.send_stdin(handle.pid, b"echo last-$((1+1)); exit\n")
    screen.read_until(b"last-2\r\n")
    assert handle.wait().exit_code == 0


def test_kill_ends_it(sandbox: Sandbox) -> None:
    handle = sandbox.pty.create(SIZE, timeout=60)
    assert sandbox.pty.kill(handle.pid) is True
    with pytest.raises(CommandExitException) as raised:
        handle.wait()
    assert raised.value.error == "signal: killed"
    assert sandbox.pty.kill(handle.pid) is False
    with pytest.raises(NotFoundException):
        sandbox.pty.resize(handle.pid, SIZE)


def test_it_can_be_reached_again(sandbox: Sandbox) -> None:
    first = sandbox.pty.create(SIZE, timeout=60)
    first.disconnect()
    second = sandbox.pty.connect(first.pid)
    screen = Screen(second)
    sandbox.pty.send_stdin(first.pid, b"echo again-$((1+1))\n")
    screen.read_until(b"again-2\r\n")
    assert sandbox.pty.kill(first.pid)


def test_its_input_is_not_stdin(sandbox: Sandbox, served_envd: Any) -> None:
    handle = sandbox.pty.create(SIZE, timeout=60)

    def answer(method: str, **request: Any) -> dict[str, Any]:
        url = f"{served_envd.url}/process.Process/{method}"
        return httpx.post(url, json={"process": {"pid": handle.pid}, **request}).json()

    assert answer("SendInput", input={"stdin": "aGk="}) == {
        "code": "internal",
        "message": "error writing to stdin: tty assigned to process"
        " — input should be written to the pty, not the stdin",
    }
    assert answer("CloseStdin") == {
        "code": "unknown",
        "message": "error closing stdin: cannot close stdin for PTY process — send Ctrl+D (0x04) instead",
    }
