"""Clients that leave, kernels that die, contexts that are taken away: what is left works."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b.exceptions import SandboxException, TimeoutException
from e2b_code_interpreter import Context, Execution, Sandbox

pytestmark = pytest.mark.live
SLEEP = "print('sleeping', flush=True)\nimport time\ntime.sleep(60)"
DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + SLEEP
BUSY = "print('busy', flush=True)\nwhile True: pass"
AWAITING = "print('awaiting', flush=True)\nimport asyncio\nawait asyncio.sleep(60)"
ENDLESS = [SLEEP, BUSY, AWAITING, DEAF]


class Running:
    """Code that runs in the background and has begun to print."""

    def __init__(self, sandbox: Sandbox, context: Context, code: str = SLEEP, **options: Any) -> None:
        self.errors: list[str] = []
        """The names of all errors that were reported."""
        self._begun = threading.Event()
        self._execution: Execution | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(sandbox, context, code, options))
        self._thread.start()
        assert self._begun.wait(30)

    def _run(self, sandbox: Sandbox, context: Context, code: str, options: dict[str, Any]) -> None:
        try:
            self._execution = sandbox.run_code(
                code,
                context=context,
                on_stdout=lambda message: self._begun.set(),
                on_error=lambda error: self.errors.append(error.name),
                **options,
            )
        except Exception as error:
            self._failure = error

    def result(self) -> Execution:
        self._thread.join(30)
        if self._failure is not None:
            raise self._failure
        assert self._execution is not None
        return self._execution


def pid_of(sandbox: Sandbox, context: Context) -> int:
    return int(sandbox.run_code("import os; os.getpid()", context=context).text or "")


def test_after_a_time_out_the_context_works_and_keeps_its_state(sandbox: Sandbox, context: Context) -> None:
    sandbox.run_code("kept = 1", context=context)
    with pytest.raises(TimeoutException, match="Execution timed out"):
        sandbox.run_code(SLEEP, context=context, timeout=0.5)
    execution = sandbox.run_code("kept", context=context, timeout=10)
    assert execution.text == "1"
    assert execution.error is None


def test_a_client_that_leaves_at_any_moment_leaves_a_working_context(
    served: Any, sandbox: Sandbox, context: Context
) -> None:
    """This includes moments before the kernel takes the code, when an interrupt alone would be lost."""
    order = {"code": SLEEP, "context_id": context.id, "env_vars": {"A": "1"}}
    for timeout in (0.001, 0.003, 0.006, 0.01, 0.02):
        with served.client() as client, pytest.raises(Exception, match="timed out"):
            client.post("/execute", json=order, timeout=timeout)
    assert sandbox.run_code("1", context=context, timeout=10).text == "1"


def test_a_client_that_leaves_the_queue_is_not_executed(served: Any, sandbox: Sandbox, context: Context) -> None:
    running = Running(sandbox, context, "print('x', flush=True)\nimport time; time.sleep(1)")
    with served.client() as client, pytest.raises(Exception, match="timed out"):
        client.post("/execute", json={"code": "ran = 1", "context_id": context.id}, timeout=0.2)
    assert running.result().error is None
    error = sandbox.run_code("ran", context=context).error
    assert error is not None
    assert error.name == "NameError"


def test_awaiting_code_is_interrupted_too(sandbox: Sandbox, context: Context) -> None:
    with pytest.raises(TimeoutException):
        sandbox.run_code("import asyncio\nawait asyncio.sleep(60)", context=context, timeout=0.5)
    assert sandbox.run_code("1", context=context, timeout=10).text == "1"


@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_a_kernel_that_dies_is_replaced_under_the_same_id(sandbox: Sandbox, context: Context, end: str) -> None:
    code = f"kept = 1\nimport os\nprint('before', flush=True)\n{end}"
    execution = sandbox.run_code(code, context=context)
    assert execution.error is not None
    assert (execution.error.name, execution.error.value) == ("ContextRestarting", "Context was restarted")
    execution = sandbox.run_code("kept", context=context)
    assert execution.error is not None
    assert execution.error.name == "NameError"
    assert execution.execution_count == 1


def test_a_kernel_that_sends_nonsense_is_replaced(sandbox: Sandbox, context: Context) -> None:
    send = "get_ipython().kernel.iopub_socket.send_multipart([b'nonsense'])"
    code = f"{send}; {send}\nimport time; time.sleep(30)"
    error = sandbox.run_code(code, context=context).error
    assert error is not None
    assert error.name == "ContextRestarting"
    assert sandbox.run_code("1", context=context).text == "1"


def test_a_kernel_that_is_killed_while_idle_is_replaced(
    sandbox: Sandbox, context: Context, until: Callable[..., Any]
) -> None:
    pid = pid_of(sandbox, context)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the killed kernel is reaped")
    assert pid_of(sandbox, context) != pid


def test_a_kernel_starts_also_after_its_folder_was_removed(served: Any, sandbox: Sandbox, context: Context) -> None:
    """``rm -rf /tmp/*`` in a sandbox removes the folder."""
    shutil.rmtree(served.kernel_folder)
    assert sandbox.run_code("1", context=context).text == "1"
    sandbox.run_code("import os; os._exit(1)", context=context)
    assert sandbox.run_code("1", context=context).execution_count == 1
    shutil.rmtree(served.kernel_folder)
    sandbox.restart_code_context(context)
    assert sandbox.run_code("2", context=context).text == "2"
    shutil.rmtree(served.kernel_folder)
    assert sandbox.run_code("3", context=sandbox.create_code_context()).text == "3"
    assert served.kernel_folder.stat().st_mode & 0o7777 == 0o700


def test_every_context_can_be_restarted_at_once_and_again(sandbox: Sandbox, context: Context) -> None:
    threads = [threading.Thread(target=sandbox.restart_code_context, args=(context,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sandbox.run_code("1", context=context).execution_count == 1


@pytest.mark.parametrize("code", ENDLESS)
def test_a_restart_ends_the_running_code(sandbox: Sandbox, context: Context, code: str) -> None:
    running = Running(sandbox, context, code)
    sandbox.restart_code_context(context)
    running.result()
    assert running.errors == ["ContextRestarting"]
    assert sandbox.run_code("1", context=context).execution_count == 1


def test_a_restart_ends_a_call_with_variables_of_its_own(sandbox: Sandbox, context: Context) -> None:
    running = Running(sandbox, context, SLEEP, envs={"KA_VAR": "1"})
    sandbox.restart_code_context(context)
    running.result()
    assert running.errors == ["ContextRestarting"]
    assert sandbox.run_code("import os; os.environ.get('KA_VAR', '-')", context=context).text == "-"


@pytest.mark.parametrize("code", ENDLESS)
def test_a_removal_ends_the_running_code_and_the_process(sandbox: Sandbox, context: Context, code: str) -> None:
    pid = pid_of(sandbox, context)
    running = Running(sandbox, context, code)
    sandbox.remove_code_context(context)
    running.result()
    assert running.errors == ["UnexpectedEndOfExecution"]
    assert not Path(f"/proc/{pid}").exists()


def test_a_removed_context_may_write_what_is_open(sandbox: Sandbox, context: Context, tmp_path: Any) -> None:
    sandbox.run_code(f"f = open({str(tmp_path / 'f')!r}, 'w')\nf.write('text')", context=context)
    sandbox.remove_code_context(context)
    assert (tmp_path / "f").read_text() == "text"


def test_closing_leaves_no_process_and_no_file(serve: Any, until: Callable[..., Any]) -> None:
    with serve() as served:
        sandbox = served.sandbox()
        first = sandbox.create_code_context()
        child = "import subprocess, os\nchild = subprocess.Popen(['sleep', '60'])\nprint(os.getpid(), child.pid)"
        pids = [int(pid) for pid in sandbox.run_code(child, context=first).logs.stdout[0].split()]
        running = Running(sandbox, first)
    with pytest.raises((SandboxException, httpx.TransportError)):
        running.result()
    assert [entry.name for entry in served.kernel_folder.iterdir() if entry.name != "ipython"] == []
    for pid in pids:
        until(lambda pid=pid: not _alive(pid), f"process {pid} has ended")


def test_closing_while_a_kernel_starts_leaves_nothing(serve: Any) -> None:
    with serve() as served:
        pass
    assert [entry.name for entry in served.kernel_folder.iterdir() if entry.name != "ipython"] == []


def _alive(pid: int) -> bool:
    """Return True if a process runs. An orphan that has ended and is not reaped yet does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def test_a_kernel_that_cannot_start_says_why(serve: Any, tmp_path: Any) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no kernel today >&2\nexit 1\n")
    python.chmod(0o755)
    with serve(str(python)) as served, served.client() as client:
        for answer in (client.get("/health"), client.post("/execute", json={"code": "1"}), client.get("/health")):
            assert answer.status_code == 500
            assert answer.text.startswith("Failed to create context: the kernel ended before it was ready")
            assert "no kernel today" in answer.text
        assert client.post("/contexts", json={}).status_code == 500
