"""Words where people stop, from inside a sandbox: what a program is told that sees only the output of its commands."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from e2b import CommandExitException, SandboxException
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, running_manager

MEMORY = 256


@pytest.fixture(scope="module")
def managers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    """A manager whose sandboxes have little memory, and no internet access."""
    options = ("--memory", str(MEMORY), "--disk", "64", "--no-internet")
    with running_manager(tmp_path_factory.mktemp("small"), *options, runtime="bubblewrap") as running:
        yield running


@pytest.fixture(scope="module")
def small(managers: RunningManager) -> Iterator[Sandbox]:
    with patch_e2b(False), Sandbox.create(domain=managers.domain, api_key=managers.api_key) as sandbox:
        yield sandbox


pytestmark = [pytest.mark.live, pytest.mark.needs("namespaces")]
HOG = "x = [bytearray(50_000_000) for _ in range(20)]; import time; time.sleep(20)"


@pytest.mark.parametrize("command", [f'exec python -c "{HOG}"', f'python -c "{HOG}"; exit $?'])
def test_row_35_a_command_that_takes_too_much_memory(small: Sandbox, command: str) -> None:
    """The exception's text is the exit code and standard error, also where a shell stands above the program."""
    with pytest.raises(CommandExitException) as caught:
        small.commands.run(command, timeout=60)
    assert f"of {MEMORY} MiB of memory, and this process" in str(caught.value)
    assert "kruise-agents: killed: the sandbox took" in caught.value.stderr


def test_a_command_that_somebody_kills_gets_no_words_of_ours(small: Sandbox) -> None:
    with pytest.raises(CommandExitException) as caught:
        small.commands.run("kill -9 $$")
    assert caught.value.stderr == ""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (HOG, "The kernel was killed: the sandbox took "),
        ("import os; os._exit(3)", "The kernel was ended by the code, with exit code 3."),
        ("import os; os.abort()", "The kernel was ended by a signal: Aborted."),
    ],
)
def test_row_30_a_kernel_that_ends(small: Sandbox, code: str, expected: str) -> None:
    error = run(small, code).error
    assert (error.name, error.value) == ("ContextRestarting", "Context was restarted")
    assert expected in error.traceback
    assert run(small, "1 + 1").text == "2"


def test_row_34_a_memory_error_says_what_it_means(small: Sandbox) -> None:
    error = run(small, "bytearray(1 << 62)").error
    assert error.name == "MemoryError"
    assert error.value.startswith("the code asked for more memory at once than the machine has free")
    assert error.traceback.endswith(error.value)
    assert run(small, "raise MemoryError('my own')").error.value == "my own"


def test_row_27_the_lines_of_a_traceback_do_not_stick_together(small: Sandbox) -> None:
    assert "Traceback (most recent call last)\nCell In[" in run(small, "1 / 0").error.traceback


def test_row_36_an_unknown_language_is_a_wrong_argument(small: Sandbox) -> None:
    with pytest.raises(SandboxException, match=r"400.*: Failed to create context: .*install R with IRkernel"):
        small.run_code("1", language="r")


def test_row_38_no_internet_in_a_command(small: Sandbox) -> None:
    with pytest.raises(CommandExitException) as caught:
        small.commands.run("pip install --retries 0 --disable-pip-version-check nothing-of-that-name", timeout=60)
    assert "kruise-agents: this sandbox has no internet access" in caught.value.stderr
    assert small.commands.run("echo Could not resolve host >&2").stderr == "Could not resolve host\n"


def test_row_38_no_internet_in_code(small: Sandbox) -> None:
    execution = run(small, "import socket; socket.getaddrinfo('example.com', 80)")
    assert execution.error.name == "gaierror"
    assert "kruise-agents: this sandbox has no internet access" in "".join(execution.logs.stderr)


def test_row_64_a_file_larger_than_the_disk_limit(small: Sandbox) -> None:
    with pytest.raises(CommandExitException) as caught:
        small.commands.run("exec head -c 100000000 /dev/zero > large")
    assert "kruise-agents: ended: a file became larger than the disk limit" in str(caught.value)


def test_row_66_packages_of_the_system(small: Sandbox) -> None:
    text = "E: Could not open lock file /var/lib/dpkg/lock-frontend - open (2: No such file or directory)"
    with pytest.raises(CommandExitException) as caught:
        small.commands.run(f"echo '{text}' >&2; exit 100")
    assert "kruise-agents: packages of the system cannot be installed in a sandbox" in str(caught.value)


def run(sandbox: Sandbox, code: str) -> Any:
    return sandbox.run_code(code, timeout=60)


def test_a_sandbox_that_is_killed_meanwhile_is_no_lost_connection(managers: RunningManager) -> None:
    """Rows 59 and 60: the SDK knows why, and says so."""
    for call in (lambda each: each.commands.run("sleep 60"), lambda each: each.run_code("import time; time.sleep(60)")):
        with patch_e2b(False):
            sandbox = Sandbox.create(domain=managers.domain, api_key=managers.api_key)
            threading.Timer(0.5, sandbox.kill).start()
            with pytest.raises(SandboxException) as caught:
                call(sandbox)
        assert "killed" in str(caught.value)
        assert "the connection was lost" not in str(caught.value)
