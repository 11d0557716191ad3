"""The running program of one sandbox: started, set up over its control socket, ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Mapping

from ...errors import KruiseAgentsError
from ..http_client import exchange
from ..runtime import Connection, Egress, EgressRules, Layout, Limits, Runtime, Watch
from .sockets import CODE_INTERPRETER_PORT, CONTROL, RELAY, SERVED_PORTS, connect, connect_port, listen

START_SECONDS = 30
_END_SECONDS = 1.0
_LOG_LINES = 20

logger = logging.getLogger(__name__)


class StartError(KruiseAgentsError):
    """A sandbox's program ended, or did not answer, before it was ready."""


class SandboxProgram:
    """Everything of one sandbox that exists outside the manager: processes, sockets, folders.

    Parameters:
        layout: where its folders go; they must not exist yet.
        runtime: what runs it.
        code_interpreter: whether port 49999 is served.
        limits: what it may take of the machine.
        watch: who looks at it while it runs.
        egress: what connects it to the internet.
    """

    def __init__(
        self,
        layout: Layout,
        runtime: Runtime,
        *,
        code_interpreter: bool,
        limits: Limits,
        watch: Watch,
        egress: Egress,
    ) -> None:
        self.layout = layout
        self.served_ports = frozenset(
            port for port in SERVED_PORTS if code_interpreter or port != CODE_INTERPRETER_PORT
        )
        self._runtime = runtime
        self._limits = limits
        self._watch = watch
        self._egress = egress
        self._connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._inner: int | None = None

    async def start(self, access_token: str | None, variables: Mapping[str, str], rules: EgressRules) -> None:
        """Start the program and wait until every port answers.

        Parameters:
            rules: what it may reach outside.

        Raises:
            StartError: it ended or stayed silent for :data:`START_SECONDS`; the message carries its last output.
        """
        try:
            first = self._launch()
            if first is not None and self._runtime.own_network:
                self._connection = await asyncio.to_thread(self._egress.attach, first, rules)
        except OSError as error:
            raise StartError(f"the sandbox's program could not be started: {error}") from error
        body = json.dumps({"accessToken": access_token, "envVars": dict(variables)}).encode()
        try:
            async with asyncio.timeout(START_SECONDS):
                status, answer = await exchange(await connect(self.layout.sockets, CONTROL), "POST", "/init", body)
        except TimeoutError:
            raise StartError(self._story(f"did not answer within {START_SECONDS} seconds")) from None
        except OSError as error:
            raise StartError(self._story("ended before it was ready")) from error
        if status != 204:
            raise StartError(self._story(f"answered {status} to its settings: {answer.decode(errors='replace')}"))

    async def change_rules(self, rules: EgressRules) -> None:
        """Let it reach something else outside from now on.

        Raises:
            OSError: the kernel refused.
        """
        if self._connection is not None:
            await asyncio.to_thread(self._connection.change, rules)

    async def connect(self, port: int) -> socket.socket:
        """Connect to a port of the sandbox.

        Raises:
            PortClosedError: nothing listens there.
            OSError: the sandbox's program is gone.
        """
        return await connect_port(self.layout.sockets, port, self.served_ports)

    async def ended(self) -> None:
        """Wait until the program has ended, by itself or not."""
        assert self._process is not None
        descriptor = os.pidfd_open(self._process.pid)
        try:
            await _readable(descriptor)
        finally:
            os.close(descriptor)
        self._process.wait()

    async def end(self) -> None:
        """End every process of the sandbox and remove its folders. May be called at any time, also twice."""
        self._watch.remove(self.layout.root.name)
        if self._process is not None and self._process.poll() is None:
            self._signal_end()
            try:
                await asyncio.wait_for(self.ended(), _END_SECONDS)
            except TimeoutError:
                logger.warning("sandbox program %d did not end; killing it", self._process.pid)
                self._process.kill()
                await self.ended()
        if self._inner is not None:
            # When bwrap itself was killed, what it started may live for another moment, and write.
            self._signal_end()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_readable(self._inner), _END_SECONDS)
            os.close(self._inner)
            self._inner = None
        if self._connection is not None:
            await asyncio.to_thread(self._connection.close)
        await asyncio.to_thread(self._runtime.remove, self.layout.root)

    def _launch(self) -> int | None:
        self._runtime.prepare(self.layout)
        names = [CONTROL, RELAY, *(SERVED_PORTS[port] for port in sorted(self.served_ports))]
        listeners = {name: listen(self.layout.sockets, name) for name in names}
        arguments: list[str] = []
        for name, listener in listeners.items():
            arguments += [f"--{name}-fd", str(listener.fileno())]
        try:
            with self.layout.log.open("wb") as log:
                descriptors = [listener.fileno() for listener in listeners.values()]
                launched = self._runtime.launch(self.layout, arguments, descriptors, log, self._limits)
            self._process = launched.process
            if launched.first_pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._inner = os.pidfd_open(launched.first_pid)
            first = launched.first_pid or launched.process.pid
            self._watch.add(self.layout.root.name, first, self.layout.root, self._limits, self._signal_end, self._tell)
        finally:
            for listener in listeners.values():
                listener.close()
        return launched.first_pid

    async def _tell(self, pid: int, why: str) -> None:
        body = json.dumps({"pid": pid, "why": why}).encode()
        await exchange(await connect(self.layout.sockets, CONTROL), "POST", "/killing", body)

    def _signal_end(self) -> None:
        """With namespaces: kill their first process, which ends all at once. Without: ask the init process to."""
        assert self._process is not None
        if self._inner is None:
            self._process.terminate()
            return
        try:
            signal.pidfd_send_signal(self._inner, signal.SIGKILL)
        except ProcessLookupError:
            return  # ended between our look and now

    def _story(self, what: str) -> str:
        code = self._process.poll() if self._process else None
        ended = f" (exit code {code})" if code is not None else ""
        lines = self.layout.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join([f"the sandbox's program {what}{ended}; its last output:", *lines])


async def _readable(descriptor: int) -> None:
    """Return when ``descriptor`` can be read; a process descriptor can when the process has ended."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_reader(descriptor, done.set)
    try:
        await done.wait()
    finally:
        loop.remove_reader(descriptor)
