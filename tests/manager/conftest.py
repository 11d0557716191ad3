"""A client of the API, a sandbox for each test that asks for one, and programs that serve in it."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, wait_for

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
def api(manager: RunningManager) -> Iterator[httpx.Client]:
    with manager.api() as client:
        yield client


@pytest.fixture
def sandbox(manager: RunningManager, patched: None) -> Iterator[Sandbox]:
    with Sandbox.create(domain=manager.domain, api_key=manager.api_key) as running:
        yield running


@pytest.fixture(scope="module")
def _of_the_module(manager: RunningManager) -> Iterator[Sandbox]:
    with patch_e2b(False):
        running = Sandbox.create(domain=manager.domain, api_key=manager.api_key)
    yield running
    with patch_e2b(False):
        running.kill()


@pytest.fixture
def shared(_of_the_module: Sandbox, patched: None) -> Sandbox:
    """A sandbox that tests of a module share. Such a test leaves nothing behind that another test would notice."""
    return _of_the_module


@pytest.fixture
def port() -> int:
    """A port for a program in the sandbox. The port is also free on the host, whose ports the sandbox may share.

    The port is below the range for outgoing connections, so that no connection can take the port a moment later.
    """
    while True:
        candidate = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", candidate)):
            return candidate


@pytest.fixture
def serve(sandbox: Sandbox, port: int) -> Callable[[str], str]:
    """Runs one of programs/ in the sandbox on ``port`` and waits until it listens; gives its URL."""

    def serve_program(name: str) -> str:
        sandbox.files.write(name, (PROGRAMS / name).read_text())
        sandbox.commands.run(f"exec python {name} {port} > {name}.log 2>&1", background=True, timeout=0)
        url = f"http://{sandbox.get_host(port)}"
        wait_for(lambda: httpx.get(f"{url}/ready").status_code != 502, 20, f"{name} listening")
        return url

    return serve_program


@pytest.fixture
def web(serve: Callable[[str], str]) -> str:
    """Base URL of programs/web.py, running in the sandbox."""
    return serve("web.py")
