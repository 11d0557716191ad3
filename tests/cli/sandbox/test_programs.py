"""`'kruise-agents sandbox exec'`, ``run`` and ``shell``: programs in a sandbox as if they ran here."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.managers import wait_for

from .conftest import Call, Program

if TYPE_CHECKING:
    from support.managers import RunningManager

IN_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from kruise_agents.cli import main
main()
"""
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="


def test_exec_writes_to_both_streams_and_ends_with_the_code_of_the_command(ks: Call, sandbox: Any) -> None:
    done = ks("exec", sandbox.sandbox_id, "bash", "-c", "echo 'naïve ☃'; echo err >&2; exit 3")
    assert done == (3, "naïve ☃\n", "err\n")


def test_exec_passes_options_of_the_command_on(ks: Call, sandbox: Any) -> None:
    assert ks("exec", sandbox.sandbox_id, "printf", "%s|", "-u", "--http", "a b", "$HOME", "--").out == (
        "-u|--http|a b|$HOME|--|"
    )
    assert ks("exec", sandbox.sandbox_id, "--", "echo", "-n", "x").out == "x"


def test_exec_has_the_options_of_docker(ks: Call, sandbox: Any) -> None:
    done = ks("exec", "-u", "root", "-w", "/tmp", "-e", "A=1", sandbox.sandbox_id, "bash", "-c", "id -un; pwd; echo $A")
    assert done.out.split() == ["root", "/tmp", "1"]
    assert int(ks("exec", "-d", sandbox.sandbox_id, "sleep", "1").out) > 0


@pytest.mark.parametrize(("name", "code"), [("KILL", 137), ("TERM", 143)])
def test_a_signal_gives_the_code_of_a_shell(name: str, code: int, ks: Call, sandbox: Any) -> None:
    done = ks("exec", sandbox.sandbox_id, "bash", "-c", f"kill -{name} $$")
    assert done.code == code
    assert "kruise-agents: the command did not exit: signal:" in done.err


def test_exec_passes_standard_input_on_byte_by_byte(program: Program, sandbox: Any) -> None:
    content = bytes(range(256)) * 1000
    done = program("exec", "-i", sandbox.sandbox_id, "sha256sum", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, _ = done.communicate(content, timeout=60)
    wanted = subprocess.run(["sha256sum"], input=content, capture_output=True, check=True).stdout
    assert (done.returncode, out) == (0, wanted)


def test_ctrl_c_ends_the_command_in_the_sandbox(program: Program, sandbox: Any) -> None:
    with program("exec", sandbox.sandbox_id, "bash", "-c", "echo on; exec sleep 987", stdout=subprocess.PIPE) as done:
        assert done.stdout.readline() == b"on\n"
        done.send_signal(signal.SIGINT)
        assert done.wait(30) == 130
    assert "987" not in sandbox.commands.run("ps -eo args | grep '[s]leep' || true").stdout


def test_a_reader_that_goes_away_ends_the_command(program: Program, sandbox: Any) -> None:
    with program("exec", sandbox.sandbox_id, "yes", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as done:
        done.stdout.readline()
        done.stdout.close()
        assert b"Traceback" not in done.stderr.read()
        assert done.wait(30) == 1
    wait_for(lambda: sandbox.commands.run("ps -eo args | grep -x '[y]es' || true").stdout == "")


def test_run_prints_output_and_results(ks: Call, sandbox: Any, tmp_path: Path) -> None:
    code = tmp_path / "sum.py"
    code.write_text("import sys\nprint('out')\nprint('err', file=sys.stderr)\nlast = 41\nlast + 1")
    assert ks("run", sandbox.sandbox_id, code) == (0, "out\n42\n", "err\n")


def test_run_reads_standard_input_and_keeps_variables(program: Program, sandbox: Any) -> None:
    for code, wanted in ((b"kept = 6 * 7", b""), (b"kept", b"42\n")):
        done = program("run", sandbox.sandbox_id, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert done.communicate(code, timeout=60)[0] == wanted
        assert done.returncode == 0


def test_run_ends_with_code_1_if_the_code_raises(ks: Call, sandbox: Any, tmp_path: Path) -> None:
    code = tmp_path / "wrong.py"
    code.write_text("1 / 0")
    done = ks("run", sandbox.sandbox_id, code)
    assert (done.code, done.out) == (1, "")
    assert "ZeroDivisionError" in done.err


def test_run_saves_pictures_under_names_that_are_free(ks: Call, sandbox: Any, tmp_path: Path) -> None:
    code = tmp_path / "plot.py"
    code.write_text(
        "from IPython.display import Image, SVG, display\nimport base64\n"
        f"display(Image(base64.b64decode({PIXEL!r})))\n"
        "display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'))"
    )
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "plot-1.png").write_text("mine")
    done = ks("run", sandbox.sandbox_id, code, "--pictures", folder)
    assert (done.code, done.out) == (0, f"saved {folder}/plot-2.png\nsaved {folder}/plot-1.svg\n")
    assert (folder / "plot-1.png").read_text() == "mine"
    assert (folder / "plot-2.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "plot-1.svg").read_text()


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, manager: RunningManager, *arguments: str) -> None:
        self.master, end = os.openpty()
        self.resize(30, 100)
        environment = {"PATH": os.environ["PATH"], "TERM": "xterm", **manager.environment()}
        command = [sys.executable, "-c", IN_A_TERMINAL, "sandbox", *arguments]
        self.process = subprocess.Popen(
            command, stdin=end, stdout=end, stderr=end, env=environment, start_new_session=True
        )
        self.settings = termios.tcgetattr(end)
        self._end = end
        self._seen = ""

    def resize(self, rows: int, columns: int) -> None:
        ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def expect(self, pattern: str) -> str:
        """Read until the pattern appears, and return what was read; the next call looks behind it."""
        deadline = time.monotonic() + 30
        os.set_blocking(self.master, False)
        while not (found := re.search(pattern, self._seen)):
            assert time.monotonic() < deadline, f"{pattern!r} did not appear: {self._seen!r}"
            try:
                self._seen += os.read(self.master, 4096).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.02)
        text, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return text

    def ended(self) -> int:
        """Wait for the end, and return the exit code. The terminal must be as it was."""
        code = self.process.wait(30)
        assert termios.tcgetattr(self._end) == self.settings
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self._end)


@pytest.fixture
def terminal(manager: RunningManager) -> Iterator[Any]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(manager, *arguments))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_shell_is_a_terminal_with_the_size_keys_and_code_of_the_users(terminal: Any, sandbox: Any) -> None:
    shell = terminal("shell", sandbox.sandbox_id)
    shell.expect(r"\$ ")
    shell.type("stty size\r")
    shell.expect("30 100")
    shell.resize(40, 120)
    shell.type("sleep 0.3; stty size\r")
    shell.expect("40 120")
    shell.type("sleep 986\r")
    wait_for(lambda: "986" in sandbox.commands.run("ps -eo args | grep '[s]leep' || true").stdout)
    shell.type("\x03")
    shell.expect(r"\^C")
    shell.type("echo code $?\r")
    shell.expect("code 130")
    shell.type("exit 7\r")
    assert shell.ended() == 7


def test_shell_ends_at_the_end_of_input(terminal: Any, sandbox: Any) -> None:
    shell = terminal("shell", "-w", "/tmp", sandbox.sandbox_id)
    shell.expect(r"/tmp\S* ?\$ ")
    shell.type("\x04")
    assert shell.ended() == 0


def test_exec_with_a_terminal_runs_the_command_in_place_of_the_shell(terminal: Any, sandbox: Any) -> None:
    command = ["python3", "-c", "import sys; print(sys.stdin.isatty(), input('name? ')[::-1]); sys.exit(5)"]
    program = terminal("exec", "-it", sandbox.sandbox_id, *command)
    assert "python3" not in program.expect(r"name\? ")
    program.type("abc\r")
    program.expect("True cba")
    assert program.ended() == 5


def test_a_shell_that_is_terminated_restores_the_terminal_and_ends_the_shell(terminal: Any, sandbox: Any) -> None:
    shell = terminal("shell", sandbox.sandbox_id)
    shell.expect(r"\$ ")
    shell.type("echo pid=$$.\r")
    pid = re.search(r"pid=(\d+)\.", shell.expect(r"pid=\d+\."))
    assert pid is not None
    shell.process.terminate()
    assert shell.ended() == 143
    wait_for(lambda: sandbox.commands.run(f"ps -o pid= -p {pid[1]} || true").stdout == "")


def test_a_shell_whose_sandbox_ends_says_so(terminal: Any, ks: Call) -> None:
    sandbox_id = ks("create").out.strip()
    shell = terminal("shell", sandbox_id)
    shell.expect(r"\$ ")
    ks("kill", sandbox_id)
    shell.expect(r"kruise-agents: .*(killed|timeout|not found|was not found)")
    assert shell.ended() == 1


def test_kill_all_asks_and_takes_no_for_an_answer(terminal: Any, sandbox: Any) -> None:
    asked = terminal("kill", "--all")
    asked.expect(r"Kill \d+ sandbox(es)?\? \[y/N\]: ")
    asked.type("n\r")
    assert asked.ended() == 1
    assert sandbox.is_running()


def test_without_a_terminal_shell_names_exec(program: Program, sandbox: Any) -> None:
    done = program("shell", sandbox.sandbox_id, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert done.communicate(timeout=60)[1] == (
        "kruise-agents: standard input and output are no terminal; use 'kruise-agents sandbox exec' instead\n"
    )
    assert done.returncode == 1
