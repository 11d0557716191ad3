"""A code interpreter behind a real server on loopback, with real kernels, and the SDK to drive it."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from e2b import ConnectionConfig
from e2b_code_interpreter import AsyncSandbox, Sandbox
from packaging.version import Version

from kruise_agents.sandbox.code_interpreter.app import CodeInterpreter
from kruise_agents.sandbox.state import SandboxState

DEADLINE = 30.0


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of ``condition``, and fail after the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE:g} s: {what}"
        time.sleep(0.01)
    return value


@dataclass
class Served:
    """A running code interpreter."""

    url: str
    state: SandboxState
    kernel_folder: Path

    def _arguments(self) -> dict[str, Any]:
        return {
            "sandbox_id": "x",
            "envd_version": Version("0.6.13"),
            "envd_access_token": self.state.access_token,
            "sandbox_domain": "x.example",
            "traffic_access_token": None,
            "connection_config": ConnectionConfig(sandbox_url=self.url, api_key="e2b_00"),
        }

    def sandbox(self) -> Sandbox:
        return Sandbox(**self._arguments())

    def async_sandbox(self) -> AsyncSandbox:
        return AsyncSandbox(**self._arguments())

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=DEADLINE)


class Server:
    """Uvicorn with a code interpreter, in a thread with a loop of its own."""

    def __init__(self, state: SandboxState, kernel_folder: Path) -> None:
        self._state = state
        self._folder = kernel_folder
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._started.wait(DEADLINE)
        if self._failure is not None:
            raise self._failure
        return Served(f"http://127.0.0.1:{self._port}", self._state, self._folder)

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
            self._started.set()

    async def _serve(self) -> None:
        interpreter = CodeInterpreter(self._state, self._folder)
        config = uvicorn.Config(
            interpreter.app, port=0, lifespan="off", ws="none", log_level="warning", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)
        self._port = self._server.servers[0].sockets[0].getsockname()[1]
        await interpreter.start()
        interpreter.start_kernel()
        self._started.set()
        await serving
        await interpreter.close()


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Makes a server; sockets need a folder with a short name."""
    folders: list[Path] = []

    def make(python: str = sys.executable, variables: Mapping[str, str] | None = None) -> Server:
        folder = Path(tempfile.mkdtemp(prefix="ka"))
        folders.append(folder)
        home = tmp_path_factory.mktemp("home")
        state = SandboxState(username="user", home=home, path="/usr/bin:/bin", python=Path(python))
        state.variables = variables or {}
        return Server(state, folder / "k")

    yield make
    for folder in folders:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def served(serve: Callable[..., Server]) -> Iterator[Served]:
    """A code interpreter that the tests of one file share."""
    with serve() as running:
        yield running


@pytest.fixture
def sandbox(served: Served) -> Sandbox:
    """The SDK's sandbox object. The tests of a file share the default context."""
    return served.sandbox()


@pytest.fixture
def context(sandbox: Sandbox) -> Iterator[Any]:
    """A context for one test alone."""
    created = sandbox.create_code_context()
    yield created
    if created.id in {one.id for one in sandbox.list_code_contexts()}:
        sandbox.remove_code_context(created)


@pytest.fixture
def until() -> Callable[[Callable[[], Any], str], Any]:
    """Waits for a condition, with a deadline."""
    return wait_until
