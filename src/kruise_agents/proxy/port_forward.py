"""A ``kubectl port-forward`` to the manager in a cluster, which is started again whenever it ends."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Self

from ..errors import ConfigurationError
from .upstream import UnreachableError

DEFAULT_PORT = 7788
"""The port of OpenKruise's manager that serves sandboxes and the API."""
_LOCAL = "127.0.0.1"
_START_SECONDS = 30.0
_PATIENCE = 10.0
_BACKOFF = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_STABLE_SECONDS = 60.0
_END_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
_NAME = r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?"
_SERVICE = re.compile(rf"({_NAME})/({_NAME})(?::([1-9][0-9]{{0,4}}))?")
_FORWARDING = re.compile(rb"Forwarding from 127\.0\.0\.1:([0-9]+) ->")
# Some releases of kubectl stay although the pod is gone, and fail each connection with one of these words.
_POD_GONE = re.compile(
    r"lost connection to pod|pod .*not found|container .*not running|(?:sandbox|container) .*not found"
)


@dataclass(frozen=True, slots=True)
class Service:
    """A service of a cluster, and its port of the manager. ``str()`` gives ``namespace/name:port``."""

    namespace: str
    name: str
    port: int = DEFAULT_PORT

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``namespace/service`` or ``namespace/service:port``. Raises ConfigurationError for other text."""
        found = _SERVICE.fullmatch(text)
        if found is None or int(found[3] or DEFAULT_PORT) > 65535:
            raise ConfigurationError(
                f"--port-forward {text!r} is not a namespace and a service, such as sandbox-system/sandbox-manager, "
                f"perhaps with a port, such as sandbox-system/sandbox-manager:{DEFAULT_PORT}"
            )
        return cls(found[1], found[2], int(found[3] or DEFAULT_PORT))

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}:{self.port}"


class PortForward:
    """A running port-forward: an asynchronous context manager.

    Args:
        tell: called with a line for the user when the port-forward ends and when it is up again.

    Raises:
        ConfigurationError: On entering: there is no kubectl, or the first start fails.
    """

    def __init__(self, service: Service, tell: Callable[[str], None]) -> None:
        self._service = service
        self._tell = tell
        self._port: int | None = None
        self._changed = asyncio.Event()
        self._reason = "it is starting"
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep())
        waiting = asyncio.create_task(self._changed.wait())
        await asyncio.wait({self._task, waiting}, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._task.done():
            await self._task  # raises the error of the first start
        if self._port is None:
            await self.__aexit__()
            raise ConfigurationError(
                f"kubectl port-forward to {self._service} was not ready within {_START_SECONDS:g} seconds; check that "
                f"'kubectl get pods --namespace {self._service.namespace}' answers"
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def locate(self) -> tuple[str, int]:
        """Return the address of the port-forward, after a short wait if it is just starting again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._changed.wait()
        if self._port is None:
            raise UnreachableError(
                f"kruise-agents proxy cannot connect to the sandbox-manager: the port-forward to {self._service} is "
                f"down and is started again: {self._reason}"
            )
        return _LOCAL, self._port

    async def _keep(self) -> None:
        failures = 0
        while True:
            begun, was_up = time.monotonic(), False
            async for port in self._run():
                self._port, was_up = port, True
                self._changed.set()
                if failures:
                    self._tell(f"the port-forward to {self._service} is up again")
            self._port = None
            self._changed.clear()
            if not failures and not was_up:
                raise ConfigurationError(f"kubectl port-forward to {self._service} does not start: {self._reason}")
            failures = 1 if was_up and time.monotonic() - begun > _STABLE_SECONDS else failures + 1
            delay = _BACKOFF[min(failures, len(_BACKOFF)) - 1]
            when = f"in {delay:g} s" if delay else "now"
            self._tell(f"the port-forward to {self._service} ended: {self._reason}; it is started again {when}")
            await asyncio.sleep(delay)

    async def _run(self) -> AsyncIterator[int]:
        """Run kubectl to its end. Yield the local port when kubectl forwards it. Set the reason of the end."""
        service = self._service
        command = ["kubectl", "port-forward", "--namespace", service.namespace, "--address", _LOCAL]
        try:
            process = await asyncio.create_subprocess_exec(
                *[*command, f"service/{service.name}", f":{service.port}"],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the proxy, which ends kubectl itself
                preexec_fn=_end_with_parent,
            )
        except OSError as error:
            reason = "was not found on PATH" if isinstance(error, FileNotFoundError) else f"fails: {error.strerror}"
            raise ConfigurationError(
                f"kubectl {reason}; install it, or reach the manager in another way and give --upstream"
            ) from error
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.create_task(self._read_errors(process, process.stderr))
        try:
            async for line in process.stdout:
                if found := _FORWARDING.match(line):
                    yield int(found[1])
            code = await process.wait()
            last = await errors
            self._reason = last or f"kubectl ended with code {code}"
        finally:
            errors.cancel()
            await _end(process)

    async def _read_errors(self, process: asyncio.subprocess.Process, stream: asyncio.StreamReader) -> str:
        """Return the last line that kubectl writes to standard error. End kubectl when its pod is gone."""
        last = ""
        async for line in stream:
            last = line.decode(errors="replace").strip().removeprefix("error: ") or last
            if _POD_GONE.search(last) and process.returncode is None:
                process.terminate()
        return last


async def _end(process: asyncio.subprocess.Process) -> None:
    for end in (process.terminate, process.kill):
        if process.returncode is not None:
            return
        end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()


def _end_with_parent() -> None:
    """Make the kernel end kubectl when the proxy is killed, where the kernel can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
