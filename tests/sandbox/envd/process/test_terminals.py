"""Pseudo-terminals."""

from __future__ import annotations

import base64
import json
import shutil
from typing import Any

import httpx
import pytest
from e2b import CommandExitException, NotFoundException, Sandbox
from e2b.sandbox.commands.command_handle import PtySize

from kruise_agents.sandbox.connect.framing import Envelope, EnvelopeDecoder

pytestmark = pytest.mark.live
SIZE = PtySize(rows=24, cols=80)


class Screen:
    """The output of a terminal."""

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


def test_programs_see_that_it_is_one_and_that_pipes_are_none(sandbox: Sandbox) -> None:
    script = "for fd in 0 1 2; do test -t $fd && echo yes || echo no; done"
    assert sandbox.commands.run(script).stdout.split() == ["no", "no", "no"]
    handle = sandbox.pty.create(SIZE, timeout=60)
    screen = Screen(handle)
    sandbox.pty.send_stdin(handle.pid, f"echo is-$((1+1)); {script}; exit\n".encode())
    screen.read_until(b"is-2\r\n")
    screen.read_until(b"yes\r\nyes\r\nyes\r\n")
    assert handle.wait().exit_code == 0


def test_a_job_can_be_stopped_and_taken_up_again(sandbox: Sandbox) -> None:
    handle = sandbox.pty.create(SIZE, timeout=60)
    screen = Screen(handle)
    sandbox.pty.send_stdin(handle.pid, b"sh -c 'echo go-$((1+1)); read line; echo got-$line'\n")
    screen.read_until(b"go-2\r\n")
    sandbox.pty.send_stdin(handle.pid, b"\x1a")
    screen.read_until(b"Stopped")
    sandbox.pty.send_stdin(handle.pid, b"fg\n")
    sandbox.pty.send_stdin(handle.pid, b"it\n")
    screen.read_until(b"got-it\r\n")
    sandbox.pty.send_stdin(handle.pid, b"exit\n")
    assert handle.wait().exit_code == 0


@pytest.mark.skipif(shutil.which("less") is None, reason="less is not installed here")
def test_less_fills_the_screen_and_gives_it_back(sandbox: Sandbox) -> None:
    sandbox.files.write("lines", "".join(f"line {number}.\n" for number in range(1, 201)))
    handle = sandbox.pty.create(SIZE, envs={"LESS": ""}, timeout=60)
    screen = Screen(handle)
    sandbox.pty.send_stdin(handle.pid, b"less lines; echo left-$((1+1))\n")
    screen.read_until(b"\x1b[?1049h")
    screen.read_until(b"line 23.")
    assert b"line 24." not in screen.shown
    sandbox.pty.send_stdin(handle.pid, b"G")
    screen.read_until(b"line 200.")
    sandbox.pty.send_stdin(handle.pid, b"g")
    screen.read_until(b"line 1.")
    sandbox.pty.resize(handle.pid, PtySize(rows=50, cols=100))
    sandbox.pty.send_stdin(handle.pid, b"r")  # less may miss the signal just before it waits for a key
    screen.read_until(b"line 49.")
    sandbox.pty.send_stdin(handle.pid, b"q")
    screen.read_until(b"\x1b[?1049l")
    screen.read_until(b"left-2\r\n")
    assert sandbox.pty.kill(handle.pid)


@pytest.mark.skipif(shutil.which("top") is None, reason="top is not installed here")
def test_top_shows_the_processes_until_it_is_told_to_stop(sandbox: Sandbox) -> None:
    handle = sandbox.pty.create(SIZE, timeout=60)
    screen = Screen(handle)
    sandbox.pty.send_stdin(handle.pid, b"top; echo left-$((1+1))\n")
    screen.read_until(b"load average")
    screen.read_until(b"PID")
    sandbox.pty.send_stdin(handle.pid, b"q")
    screen.read_until(b"left-2\r\n")
    assert sandbox.pty.kill(handle.pid)


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


def test_its_events_are_no_longer_than_16_kib_and_its_stdin_is_on(served_envd: Any) -> None:
    process = {"cmd": "sh", "args": ["-c", "test -t 0 && head -c 300000 /dev/zero"]}
    request = {"process": process, "pty": {"size": {"cols": 80, "rows": 24}}, "stdin": False}
    reply = httpx.post(
        f"{served_envd.url}/process.Process/Start",
        content=Envelope(0, json.dumps(request).encode()).encode(),
        headers={"content-type": "application/connect+json"},
    )
    events = [json.loads(frame.payload).get("event", {}) for frame in EnvelopeDecoder().feed(reply.content)]
    sizes = [len(base64.b64decode(event["data"]["pty"])) for event in events if "data" in event]
    assert sum(sizes) == 300_000
    assert max(sizes) <= 16384
