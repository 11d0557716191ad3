"""ASGI applications on a real uvicorn, and envd with the real SDK in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from e2b import AsyncSandbox, ConnectionConfig, Sandbox
from packaging.version import Version

from kruise_agents.sandbox.envd import Envd
from kruise_agents.sandbox.state import SandboxState


class LoopbackServer:
    """A server for an application on 127.0.0.1, in a thread with an event loop of its own."""

    def __init__(self, app: Any, on_stop: Callable[[], Awaitable[None]] | None = None) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(app, port=0, ws="none", lifespan="off", log_level="error", timeout_graceful_shutdown=1)
        )
        self._on_stop = on_stop
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))
        self.loop: asyncio.AbstractEventLoop | None = None

    @property
    def port(self) -> int:
        return self._server.servers[0].sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        wait_until(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        task = asyncio.create_task(self._server.serve())
        while not self._server.should_exit and not task.done():
            await asyncio.sleep(0.01)
        if self._on_stop is not None:
            await self._on_stop()
        await task


@dataclass(frozen=True)
class ServedEnvd:
    """A running envd."""

    url: str
    port: int
    state: SandboxState
    envd: Envd
    loop: asyncio.AbstractEventLoop

    @property
    def home(self) -> Path:
        return self.state.home

    def sandbox(self, token: str | None = None) -> Sandbox:
        return Sandbox(**self._arguments(token))

    def async_sandbox(self) -> AsyncSandbox:
        return AsyncSandbox(**self._arguments(None))

    def _arguments(self, token: str | None) -> dict[str, Any]:
        return {
            "sandbox_id": "x",
            "envd_version": Version("0.6.13"),
            "envd_access_token": token,
            "sandbox_domain": "x.example",
            "traffic_access_token": None,
            "connection_config": ConnectionConfig(
                sandbox_url=self.url,
                api_key="e2b_00",
                extra_sandbox_headers={"X-Access-Token": token} if token else {},
            ),
        }


@pytest.fixture
def serve_app() -> Iterator[Callable[[Any], LoopbackServer]]:
    with contextlib.ExitStack() as stack:

        def serve(app: Any) -> LoopbackServer:
            server = LoopbackServer(app)
            server.start()
            stack.callback(server.stop)
            return server

        yield serve


@pytest.fixture
def served_envd(tmp_path: Path) -> Iterator[ServedEnvd]:
    home = tmp_path / "home"
    home.mkdir()
    path = os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    state = SandboxState("user", home, path, Path(sys.executable))
    envd = Envd(state)
    server = LoopbackServer(envd.app, envd.close)
    # Started as a background job, the test run ignores Ctrl-C, and so would everything started in it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    server.start()
    try:
        assert server.loop is not None
        yield ServedEnvd(server.url, server.port, state, envd, server.loop)
    finally:
        server.stop()
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def sandbox(served_envd: ServedEnvd) -> Sandbox:
    return served_envd.sandbox()


@pytest.fixture
def locked(served_envd: ServedEnvd) -> Iterator[Path]:
    """A folder that the program may not read, even if the tests run as root."""
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        folder = Path(outer) / "locked"
        folder.mkdir(mode=0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(user)
            folder.chmod(0o700)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[[Callable[[], bool]], None]:
    return wait_until
