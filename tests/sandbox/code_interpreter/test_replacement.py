"""Kernels that do not answer: a context works again a bounded time after its client has left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from e2b.exceptions import TimeoutException
from e2b_code_interpreter import Context, Execution, Sandbox

from kruise_agents.sandbox.code_interpreter import execution

pytestmark = pytest.mark.live
BEGUN = "print('begun', flush=True)\n"
IGNORES_INTERRUPTS = f"""\
import time
{BEGUN}
while True:
    try:
        time.sleep(1)
    except KeyboardInterrupt:
        pass"""
STAYS_IN_C = f"import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{BEGUN}\ntime.sleep(3600)"
STOPS_ITSELF = f"import os, signal\n{BEGUN}\nos.kill(os.getpid(), signal.SIGSTOP)"
ENDED = ("ContextRestarting", "Context was restarted")


def stopping_late(interrupted: Path) -> str:
    """Return code that cleans up for a second after an interrupt, and first makes the file ``interrupted``.

    The sleeps of the clean-up are short, because time in which the kernel is stopped counts as sleep.
    """
    return f"""\
import pathlib, signal, time
{BEGUN}
try:
    time.sleep(3600)
except KeyboardInterrupt:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pathlib.Path({str(interrupted)!r}).touch()
    for _ in range(20):
        time.sleep(0.05)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cleaned = True"""


def pid_of(sandbox: Sandbox, context: Context) -> int:
    return int(sandbox.run_code("import os; os.getpid()", context=context).text or "")


def leave(sandbox: Sandbox, context: Context, code: str, **options: Any) -> None:
    """Run code until the client's time-out."""
    with pytest.raises(TimeoutException):
        sandbox.run_code(code, context=context, timeout=0.5, **options)


def assert_replaced(sandbox: Sandbox, context: Context, pid: int) -> None:
    """Assert that the next call says that the kernel was replaced, and that the calls after it work."""
    told = sandbox.run_code("ran = 1", context=context, timeout=60)
    assert told.error is not None
    assert (told.error.name, told.error.value) == ENDED
    assert "the code of this call did not run" in told.error.traceback
    after = sandbox.run_code("'ran' in globals(), 'kept' in globals()", context=context, timeout=60)
    assert (after.text, after.error, after.execution_count) == ("(False, False)", None, 1)
    assert pid_of(sandbox, context) != pid
    assert context.id in [one.id for one in sandbox.list_code_contexts()]


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "STEP_SECONDS", 0.1)


@pytest.mark.parametrize("code", [IGNORES_INTERRUPTS, STAYS_IN_C, STOPS_ITSELF])
@pytest.mark.parametrize("envs", [None, {"KA_VAR": "1"}])
def test_code_that_does_not_stop_costs_the_kernel_and_not_the_context(
    sandbox: Sandbox, context: Context, code: str, envs: dict[str, str] | None
) -> None:
    pid = pid_of(sandbox, context)
    sandbox.run_code("kept = 1", context=context)
    leave(sandbox, context, code, envs=envs)
    assert_replaced(sandbox, context, pid)


@pytest.mark.parametrize("envs", [None, {"KA_VAR": "1"}])
def test_a_kernel_that_was_stopped_while_idle_is_replaced(
    sandbox: Sandbox, context: Context, envs: dict[str, str] | None
) -> None:
    pid = pid_of(sandbox, context)
    os.kill(pid, signal.SIGSTOP)
    leave(sandbox, context, "1", envs=envs)
    assert_replaced(sandbox, context, pid)


def test_a_kernel_that_stops_answering_after_the_end_of_a_call_is_replaced(sandbox: Sandbox, context: Context) -> None:
    """The variables of a call are reset after its last line, when its client has gone already."""
    pid = pid_of(sandbox, context)
    code = "import os, signal\nos.environ.pop = lambda *_: os.kill(os.getpid(), signal.SIGSTOP)"
    assert sandbox.run_code(code, context=context, envs={"KA_VAR": "1"}).error is None
    leave(sandbox, context, "1")
    assert_replaced(sandbox, context, pid)


def test_a_kernel_whose_clients_wait_is_not_replaced(
    sandbox: Sandbox, context: Context, tmp_path: Path, until: Callable[..., Any]
) -> None:
    """A client that leaves the queue says nothing about the code that runs for another client."""
    pid = pid_of(sandbox, context)
    begun, go_on = tmp_path / "begun", tmp_path / "go on"
    code = (
        "import pathlib, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"pathlib.Path({str(begun)!r}).touch()\n"
        f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.01)\n'done'"
    )
    executions: list[Execution] = []
    running = threading.Thread(target=lambda: executions.append(sandbox.run_code(code, context=context)))
    running.start()
    try:
        until(begun.exists, "the code runs")
        for _ in range(3):
            leave(sandbox, context, "1")
    finally:
        go_on.touch()
        running.join()
    assert [one.text for one in executions] == ["done"]
    assert pid_of(sandbox, context) == pid


def test_code_that_stops_late_keeps_its_kernel(
    sandbox: Sandbox, context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(execution, "STEP_SECONDS", 1.0)
    sandbox.run_code("kept = 1", context=context)
    leave(sandbox, context, stopping_late(tmp_path / "interrupted"))
    after = sandbox.run_code("kept, cleaned", context=context, timeout=60)
    assert (after.text, after.error) == ("(1, True)", None)


def test_a_restart_after_a_client_left_is_not_reported_again(sandbox: Sandbox, context: Context) -> None:
    leave(sandbox, context, IGNORES_INTERRUPTS)
    sandbox.restart_code_context(context)
    after = sandbox.run_code("1", context=context)
    assert (after.text, after.error, after.execution_count) == ("1", None, 1)


def test_a_kernel_that_dies_after_its_client_left_is_reported(sandbox: Sandbox, context: Context) -> None:
    pid = pid_of(sandbox, context)
    leave(sandbox, context, f"import os, time\n{BEGUN}\ntry: time.sleep(3600)\nfinally: os._exit(1)")
    assert_replaced(sandbox, context, pid)


SERVER = """\
import shutil, sys, tempfile
from pathlib import Path
from conftest import Server
from kruise_agents.sandbox.code_interpreter import execution
from kruise_agents.sandbox.state import SandboxState

execution.STEP_SECONDS = 0.3
home, folder = (Path(tempfile.mkdtemp(prefix="ka")) for _ in range(2))
state = SandboxState(username="user", home=home, path="/usr/bin:/bin", python=Path(sys.executable))
with Server(state, folder / "k") as served:
    print(served.url, flush=True)
    sys.stdin.read()
shutil.rmtree(home)
shutil.rmtree(folder)
"""


@contextmanager
def server_process(served: Any) -> Iterator[tuple[int, Sandbox]]:
    """Run a code interpreter in a process of its own, and yield the pid and the SDK's sandbox."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield process.pid, replace(served, url=url).sandbox()
    finally:
        process.communicate(timeout=60)


def test_time_in_which_the_sandbox_was_paused_does_not_count(
    served: Any, tmp_path: Path, until: Callable[..., Any]
) -> None:
    with server_process(served) as (server, sandbox):
        context = sandbox.create_code_context()
        kernel = pid_of(sandbox, context)
        leave(sandbox, context, stopping_late(tmp_path / "interrupted"))
        until((tmp_path / "interrupted").exists, "the code is interrupted")
        for pid in (server, kernel):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(4)  # no condition to wait for: these seconds, more than ten steps of 0.3 s, must not count
        for pid in (kernel, server):
            os.kill(pid, signal.SIGCONT)
        after = sandbox.run_code("import os; os.getpid(), cleaned", context=context, timeout=60)
        assert (after.text, after.error) == (f"({kernel}, True)", None)
