"""Managers for tests: ``kruise-agents serve`` as a program of its own on a free port, and the processes below it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from kruise_agents.errors import RuntimeUnavailableError
from kruise_agents.manager.runtime import BubblewrapRuntime
from kruise_agents.manager.runtime.files.layout import folder_name

API_KEY = "e2b_0123456789abcdef0123456789abcdef01234567"
PREFORK = os.environ.get("KRUISE_AGENTS_PREFORK") != "0"
"""True if managers of the tests fork sandboxes from a zygote. ``KRUISE_AGENTS_PREFORK=0`` turns that off."""
PREFORK_VARIABLES = {} if PREFORK else {"KRUISE_AGENTS_PREFORK": "0"}
"""The environment variables that pass ``PREFORK`` on to a manager that a test starts."""
MEASURED = {name: value for name, value in os.environ.items() if name == "COVERAGE_PROCESS_CONFIG"}
"""The environment variable by which `make coverage` also measures a manager that a test starts."""
NO_IDENTITIES = """
import kruise_agents.manager.runtime.bwrap.self_test as self_test
def find_identities():
    raise self_test.NoIdentitiesError("a test says so")
self_test.find_identities = find_identities
"""
"""A prelude for managers whose sandboxes have one user, even if this machine has ids for several users."""


@functools.cache
def _bubblewrap() -> BubblewrapRuntime | None:
    runtime = BubblewrapRuntime()
    try:
        runtime.check()
    except RuntimeUnavailableError as error:
        print(f"tests run with the process runtime: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return runtime


def available_runtime() -> str:
    """Return ``bubblewrap`` if this machine permits namespaces, else ``process``."""
    return "bubblewrap" if _bubblewrap() else "process"


def one_user_because() -> str | None:
    """Return why sandboxes have one user on this machine, or None if they have several users."""
    runtime = _bubblewrap()
    return "this machine permits no namespaces" if runtime is None else runtime.one_user_because


def reads_volumes() -> bool:
    """Return True if a manager here can read the files of all users in volumes, as the API for volumes does."""
    return os.geteuid() == 0 or one_user_because() is not None


@dataclass
class RunningManager:
    """A running manager, its address and its files."""

    process: subprocess.Popen[str]
    port: int
    state_dir: Path
    log: Path
    output: str
    """The lines on standard output up to the message about Ctrl-C."""
    scheme: str = "http"
    api_key: str = API_KEY

    @property
    def domain(self) -> str:
        return f"localhost:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.scheme}://{self.domain}/kruise/api"

    @property
    def tls(self) -> Path | None:
        """The folder with the certificates that ``--tls`` makes."""
        return self.state_dir / "tls" if self.scheme == "https" else None

    def environment(self) -> dict[str, str]:
        """Return the variables that a client program needs."""
        return {"E2B_DOMAIN": self.domain, "E2B_API_KEY": self.api_key}

    def api(self, **options: Any) -> httpx.Client:
        """Return an HTTP client of the API that sends the key."""
        return httpx.Client(base_url=self.api_url, headers={"X-API-Key": self.api_key}, timeout=60, **options)

    def folder_of(self, sandbox_id: str) -> Path:
        """Return the folder that the manager keeps for a sandbox."""
        return self.state_dir / "sandboxes" / folder_name(sandbox_id)

    def sandbox_url(self, sandbox_id: str, port: int) -> str:
        return f"{self.scheme}://{self.domain}/kruise/{sandbox_id}/{port}"


@contextlib.contextmanager
def running_manager(
    folder: Path,
    *options: str,
    runtime: str | None = None,
    prelude: str = "",
    pool: int = 0,
    python: Path | str = sys.executable,
) -> Iterator[RunningManager]:
    """Start ``kruise-agents serve`` with its state below ``folder``, and end the manager as Ctrl-C does.

    Args:
        prelude: Python code that the manager's process runs first.
        pool: the number of sandboxes that the manager keeps warm. Most tests want no sandboxes but their own.
        python: the interpreter of the environment in which the manager runs.
    """
    log, state_dir = folder / "manager.log", folder / "state"
    command = serve_command("--port", "0", "--state-dir", str(state_dir), "--log-level", "info")
    command += ["--runtime", runtime or available_runtime(), "--pool", str(pool), *options]
    command[0] = str(python)
    if prelude:
        program = f"{prelude}\nfrom kruise_agents.cli import main\nmain()"
        command[1:3] = ["-c", program]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "KRUISE_AGENTS_API_KEY": API_KEY}
    environment |= PREFORK_VARIABLES | MEASURED
    with started_manager(command, environment, log=log) as (process, text):
        port = re.search(r"^kruise-agents .*sandbox-manager on .*:(\d+)$", text, re.MULTILINE)
        assert port is not None, text
        scheme = "https" if "--tls" in options or "--cert" in options else "http"
        yield RunningManager(process, int(port[1]), state_dir, log, text, scheme)


@contextlib.contextmanager
def started_manager(
    command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None, log: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start ``serve``, yield the process and its output up to the message about Ctrl-C, and end it as Ctrl-C does.

    ``folder`` is the working directory, ``log`` the file for standard error. Raise AssertionError if ``serve`` ends.
    """
    with log.open("w") if log else contextlib.nullcontext() as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    try:
        text = ""
        while "Ctrl-C" not in text:
            line = process.stdout.readline()
            assert line, f"the manager ended with code {process.wait()}: {log.read_text() if log else text}"
            text += line
        yield process, text
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def serve_command(*options: str) -> list[str]:
    return [sys.executable, "-m", "kruise_agents", "serve", *options]


def wait_for(condition: Callable[[], object], seconds: float = 10.0, what: str = "the condition") -> None:
    """Return as soon as ``condition`` returns a true value, and fail if this takes longer than ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} seconds")
        time.sleep(0.02)


def processes_with(marker: str) -> list[int]:
    """Return the ids of all processes whose command line contains ``marker``."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marker in command:
            found.append(int(entry.name))
    return found


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes below ``pid``, as the host numbers them."""
    return [below for child in children(pid) for below in (child, *descendants(child))]


def children(pid: int) -> list[int]:
    """Return the ids of the children of ``pid``, as the host numbers them."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # the process has just ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def assert_ends(processes: Sequence[int], seconds: float = 5.0) -> None:
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), seconds, "the end of the processes")
