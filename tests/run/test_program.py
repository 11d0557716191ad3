"""The program of ``kruise-agents run``: its exit code, its signals, its streams and its terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.live

RUN = [sys.executable, "-m", "kruise_agents", "run"]
WAITING = [
    sys.executable,
    "-c",
    "import os, sys\nfrom kruise_agents.run import program\n"
    "program._end_like(program._Child(sys.argv[1:], dict(os.environ)).wait())",
]
"""A parent that waits, as that of ``run --local``, which also has a manager."""
COUNTING = """
import os, signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: got.append(number))
print("ready", os.getpid(), flush=True)
while signal.SIGTERM not in got:
    signal.pause()
time.sleep(0.2)
print(got.count(signal.SIGINT), got.count(signal.SIGUSR1), flush=True)
"""


@pytest.fixture(params=[[*RUN, "--"], WAITING], ids=["in its place", "as its child"])
def run(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


def result(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_the_exit_code_and_the_streams_are_the_program_s(run: list[str]) -> None:
    done = subprocess.run(
        [*run, "sh", "-c", "cat; echo b >&2; exit 41"], input="a\n", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (41, "a\n", "b\n")


def test_the_end_by_a_signal_is_the_program_s(run: list[str]) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV):
        assert result(*run, "sh", "-c", f"ulimit -c 0; kill -{number} $$").returncode == -number


def test_a_pipeline_ends_as_without_it(run: list[str]) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" | head -1', "sh", *run, "yes"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("y\n", "")


def test_no_signal_stays_blocked_or_ignored(run: list[str]) -> None:
    show = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    assert _masks(result(*run, *show).stdout) == _masks(result(*show).stdout)


def _masks(status: str) -> list[int]:
    # Without the signals 32 and 33, which are glibc's own and which its posix_spawn ignores in the program.
    return [int(word, 16) & 0x7FFFFFFF for word in status.split()[1::2]]


def test_signals_for_run_reach_the_program_once(run: list[str]) -> None:
    with started(*run, sys.executable, "-c", COUNTING) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        assert process.stdout.readline() == "1 1\n"
        assert process.wait(20) == 0


def test_ctrl_c_reaches_the_program_once(run: list[str]) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(run[0], [*run, sys.executable, "-c", COUNTING])
    try:
        program = int(_read(terminal, "\n").split()[1])
        os.write(terminal, b"\x03")
        _read(terminal, "^C")
        os.kill(program, signal.SIGTERM)
        assert _read(terminal, "\n").strip() == "1 0"
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        os.close(terminal)


def _read(terminal: int, end: str) -> str:
    text, deadline = "", time.monotonic() + 30
    while end not in text:
        assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], text
        text += os.read(terminal, 1024).decode()
    return text


def test_a_stop_of_the_program_stops_run_until_both_go_on() -> None:
    command = [*WAITING, "sh", "-c", "echo $$; kill -STOP $$; exit 5"]
    # A process group whose stops a parent in the session can see.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        os.killpg(process.pid, signal.SIGCONT)
        assert process.wait(20) == 5
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["no-such-program"], 127, "there is no program 'no-such-program'; check its name and PATH"),
        (["/etc/passwd"], 126, "'/etc/passwd' is not a program: make the file executable, or write its interpreter"),
    ],
)
def test_a_program_that_is_missing_is_named(command: list[str], code: int, message: str) -> None:
    for options in ([], ["--local"]):
        done = result(*RUN, *options, "--", *command)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith(f"kruise-agents: {message}")


def test_a_program_that_the_system_refuses_is_named(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo 1\n")
    script.chmod(0o755)
    done = result(*RUN, "--", str(script))
    assert (done.returncode, done.stderr) == (
        126,
        f"kruise-agents: {str(script)!r} cannot be started: Exec format error\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the command is missing"),
        (["python"], "run does not know 'python'; write -- before the command"),
        (["--memory", "512", "--", "true"], "run does not know '--memory'"),
        (["--local", "python"], "run does not know 'python'"),
        (["--local", "--http", "--", "true"], "--local knows how its manager is reached"),
        (["--manager-log", "x", "--", "true"], "--manager-log needs --local"),
        (["--env", "--local"], "--env prints variables and starts nothing"),
        (["--env", "--", "true"], "--env prints variables and starts nothing"),
        (["--env"], "E2B_DOMAIN is not set"),
    ],
)
def test_wrong_command_lines_are_explained(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kruise_agents.cli.run import main

    monkeypatch.delenv("E2B_DOMAIN", raising=False)
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert capsys.readouterr().err.startswith(f"kruise-agents: {message}")


def test_variables_for_other_programs_are_printed() -> None:
    done = result(*RUN, "--http", "--env", E2B_DOMAIN="localhost:7788", E2B_API_KEY="a key")
    assert done.stdout.splitlines() == [
        "export E2B_DOMAIN=localhost:7788",
        "export E2B_API_KEY='a key'",
        "export E2B_API_URL=http://localhost:7788/kruise/api",
        "export E2B_SANDBOX_URL=http://localhost:7788",
        "export KRUISE_AGENTS_RUN_ADDRESS=http://localhost:7788",
    ]


def test_what_is_not_patched_is_said_on_request() -> None:
    command = [*RUN, "--http", "--verbose", "--", sys.executable, "-I", "-c", "print(1)"]
    done = result(*command, E2B_DOMAIN="a.example")
    assert done.stdout == "1\n"
    assert done.stderr == (
        "kruise-agents run: the manager is http://a.example\n"
        f"kruise-agents run: {sys.executable} leaves PYTHONPATH out here, so its SDK is not patched\n"
    )
    assert "E2B_DOMAIN is not set" in result(*RUN, "--verbose", "--", "true").stderr
    assert result(*RUN, "--", sys.executable, "-I", "-c", "").stderr == ""
