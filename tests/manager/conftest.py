"""A manager for all tests of a worker, and a sandbox for each test that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, running_manager, wait_for

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="session")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    with running_manager(tmp_path_factory.mktemp("manager")) as running:
        yield running


@pytest.fixture
def api(manager: RunningManager) -> Iterator[httpx.Client]:
    with manager.api() as client:
        yield client


@pytest.fixture
def patched() -> Iterator[None]:
    with patch_e2b(False):
        yield


@pytest.fixture
def sandbox(manager: RunningManager, patched: None) -> Iterator[Sandbox]:
    with Sandbox.create(domain=manager.domain, api_key=manager.api_key) as running:
        yield running


@pytest.fixture
def serve(sandbox: Sandbox) -> Callable[[str, int], str]:
    """Runs one of programs/ in the sandbox and waits until it listens; gives its URL."""

    def serve_program(name: str, port: int) -> str:
        sandbox.files.write(name, (PROGRAMS / name).read_text())
        sandbox.commands.run(f"exec python {name} {port} > {name}.log 2>&1", background=True, timeout=0)
        url = f"http://{sandbox.get_host(port)}"
        wait_for(lambda: httpx.get(f"{url}/ready").status_code != 502, 20, f"{name} listening")
        return url

    return serve_program


@pytest.fixture
def web(serve: Callable[[str, int], str]) -> str:
    """Base URL of programs/web.py, running in the sandbox on port 3000."""
    return serve("web.py", 3000)
