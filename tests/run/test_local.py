"""``kruise-agents run --local``: an embedded manager for one program, and the patch with the real SDK."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.managers import available_runtime, processes_with, wait_for

pytestmark = pytest.mark.live

PROGRAM = """
import multiprocessing, os, subprocess, sys
assert not any(name.partition(".")[0] in ("e2b", "kruise_agents") for name in sys.modules)

def work(queue):
    from e2b_code_interpreter import Sandbox
    with Sandbox.create() as sandbox:
        queue.put((sandbox.commands.run("echo $(( 6 * 7 ))").stdout.strip(), sandbox.get_host(3000)))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=work, args=(queue,))
    child.start()
    answer, host = queue.get(timeout=100)
    assert answer == "42" and host.startswith(os.environ["E2B_DOMAIN"] + "/kruise/"), (answer, host)
    child.join()
    listed = subprocess.run([sys.executable, "by_hand.py"], capture_output=True, text=True, check=True)
    assert (listed.stdout, listed.stderr) == ("0\\n", "")
    print(os.environ["E2B_API_URL"], os.environ["E2B_SANDBOX_URL"], os.environ["NO_PROXY"], os.environ.get("E2B_DEBUG"))
    sys.exit(9)
"""
PATCHED_BY_HAND = """
from kruise_agents.patch_e2b import patch_e2b
patch_e2b()
from e2b import Sandbox
print(len(Sandbox.list().next_items()))
"""


def run(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    state = tmp_path / "tmp"
    state.mkdir()
    command = [sys.executable, "-m", "kruise_agents", "run", "--local", "--runtime", available_runtime(), "--pool", "0"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(state), **variables}
    return subprocess.Popen(
        [*command, *arguments], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def assert_nothing_is_left(tmp_path: Path) -> None:
    wait_for(lambda: not list((tmp_path / "tmp").iterdir()), 30, "the removal of the state folder")
    wait_for(lambda: not processes_with(str(tmp_path / "tmp")), 30, "the end of the manager's processes")


def test_an_unchanged_program_finds_its_manager_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(PROGRAM)
    (tmp_path / "by_hand.py").write_text(PATCHED_BY_HAND)
    left_over = {"E2B_DOMAIN": "e2b.app", "E2B_API_URL": "http://localhost:9", "E2B_DEBUG": "true"}
    log = ["--manager-log", "manager.log", "--log-level", "info"]
    process = run(tmp_path, *log, "--", sys.executable, "agent.py", HTTP_PROXY="http://localhost:9", **left_over)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (9, ""), errors
    api_url, sandbox_url, no_proxy, debug = output.split()
    assert api_url == f"{sandbox_url}/kruise/api"
    assert sandbox_url.startswith("http://localhost:")
    assert (no_proxy, debug) == ("localhost,127.0.0.1,::1", "None")
    assert "POST" in (tmp_path / "manager.log").read_text()
    assert_nothing_is_left(tmp_path)


def test_nothing_is_left_when_the_program_is_killed(tmp_path: Path) -> None:
    process = run(tmp_path, "--", "sh", "-c", 'echo $$; echo "$E2B_DOMAIN"; exec sleep 1000')
    assert process.stdout is not None
    program = int(process.stdout.readline())
    assert process.stdout.readline().startswith("localhost:")
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    os.kill(program, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert_nothing_is_left(tmp_path)


def test_ctrl_c_ends_the_start_of_the_manager_quietly(tmp_path: Path) -> None:
    process = run(tmp_path, "--", "true")
    wait_for(lambda: list((tmp_path / "tmp").glob("kruise-agents-*")), 60, "the state folder")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) in [(-signal.SIGINT, ""), (0, "")]  # the start may have been quicker
    assert_nothing_is_left(tmp_path)


def test_options_that_serve_refuses_are_explained(tmp_path: Path) -> None:
    process = run(tmp_path, "--memory", "nothing", "--", "true")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith("kruise-agents: the manager did not start (exit code 2):\n")
    assert "Invalid value for '--memory'" in errors


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    log = tmp_path / "missing" / "log"
    process = run(tmp_path, "--manager-log", str(log), "--", "true")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors == f"kruise-agents: the file for the log, {log}, cannot be written: No such file or directory\n"


def test_a_missing_extra_is_explained(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError(\"No module named 'click'\", name='click')\n")
    process = run(tmp_path, "--", "true", PYTHONPATH=str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the command needs the extra 'local': pip install 'kruise-agents[local]'" in errors
