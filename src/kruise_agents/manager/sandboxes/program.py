"""The running program of one sandbox: launched, claimed over its control socket, found again, ended."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import KruiseAgentsError
from ...protocol.addresses import ENVD_PORT
from ..runtime import (
    Connection,
    Egress,
    EgressRules,
    Launch,
    Layout,
    Limits,
    ProcessHandle,
    ProcessIdentity,
    Runtime,
    Watchdog,
)
from ..runtime.limits.log_file import last_bytes
from ..templates.model import Template
from ..unix_http import exchange
from .sockets import CODE_INTERPRETER_PORT, CONTROL, RELAY, SERVED_PORTS, connect, connect_port, listen

START_SECONDS = 30
CLAIM_SECONDS = 5
"""For one that waits with everything running; it answers in some milliseconds, on a busy machine in a second."""
ANSWER_SECONDS = 30
MEASURE_SECONDS = 3
_END_SECONDS = 3.0
_LOG_LINES = 20

logger = logging.getLogger(__name__)


class StartError(KruiseAgentsError):
    """A sandbox's program ended, or did not answer, before it was ready."""


class NoAnswerError(KruiseAgentsError):
    """A sandbox's program, which was ready once, does not answer on its control socket."""


class SandboxProgram:
    """Everything of one sandbox that exists outside the manager: processes, sockets, folders.

    A start has two steps, so that a program may wait between them: :meth:`launch` and :meth:`claim`. Until it is
    claimed it ends with the manager; from then on it outlives it.

    Parameters:
        layout: where its folders go.
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
        watch: Watchdog,
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
        self._process: ProcessHandle | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._leash: int | None = None

    @property
    def identity(self) -> ProcessIdentity | None:
        """The process with which all of it ends; None while there is none."""
        return self._process.identity if self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether it was launched or found, and has not ended."""
        return self._process is not None and self._process.alive

    def launch(self, *, prepared: bool = False) -> None:
        """Start the program; does not wait for it.

        Parameters:
            prepared: whether its folders exist already, with files that a program before it left.

        Raises:
            StartError: it could not be started.
            OSError: its folders could not be made.
        """
        if not prepared:
            self._runtime.prepare(self.layout)
        try:
            self._launch(fresh=not prepared)
        except OSError as error:
            raise StartError(f"the sandbox's program could not be started: {error}") from error

    async def fill(self, files: Path) -> None:
        """Make its folders with a copy of another file tree, before a launch of what is prepared.

        Raises:
            OSError: they could not be made.
        """
        self.layout.make_outer()
        await self._runtime.copy(files, self.layout.rootfs)

    async def prepare(self, template: Template, variables: Mapping[str, str], *, kernel: bool) -> None:
        """Run the template's start command in the launched program, and return when it is ready.

        Parameters:
            variables: of everything that runs until the claim, which replaces them.
            kernel: wait for the default kernel too.

        Raises:
            StartError: it ended, or something of it did not become ready; the message says what was wrong.
        """
        seconds = START_SECONDS + (template.ready.seconds if template.ready is not None else 0)
        order = {
            "envVars": dict(variables),
            "start": template.start,
            "ready": asdict(template.ready) if template.ready is not None else None,
            "kernel": kernel,
        }
        status, answer = await self._first_answer("/prepare", order, seconds)
        if status != 204:
            raise StartError(f"template {template.name}: {answer.decode(errors='replace')}")

    async def claim(
        self,
        access_token: str | None,
        variables: Mapping[str, str],
        seconds_left: float | None,
        *,
        patience: float = START_SECONDS,
    ) -> None:
        """Give the launched program its settings and wait until every port answers.

        Parameters:
            seconds_left: after which it ends by itself, from the moment it is ready; None: never.
            patience: how many seconds it may take.

        Raises:
            StartError: it ended or stayed silent for that long; the message carries its last output.
        """
        settings = {"accessToken": access_token, "envVars": dict(variables), "secondsLeft": seconds_left}
        status, answer = await self._first_answer("/init", settings, patience)
        if status != 204:
            raise StartError(self._story(f"answered {status} to its settings: {answer.decode(errors='replace')}"))
        self._drop_leash()

    def find(self, identity: ProcessIdentity) -> bool:
        """Take over a program that another manager started. Returns whether it is still there."""
        process = ProcessHandle.find(identity)
        if process is not None:
            self._hold(process)
        return process is not None

    async def attach(self, rules: EgressRules) -> None:
        """Connect the launched or found program to the outside, where it has a network of its own.

        Raises:
            StartError: it did not work.
        """
        if self._process is None or not self._runtime.own_network:
            return
        try:
            self._connection = await asyncio.to_thread(self._egress.attach, self._process.identity.pid, rules)
        except OSError as error:
            raise StartError(self._story(f"could not be connected to the internet: {error}")) from error

    async def set_seconds_left(self, seconds: float | None, patience: float = ANSWER_SECONDS) -> None:
        """Say when the program ends by itself, from now; None: never.

        Raises:
            NoAnswerError: it is gone, or stayed silent for ``patience`` seconds.
        """
        await self._ask("POST", "/end-time", {"secondsLeft": seconds}, patience)

    async def variables(self) -> dict[str, str]:
        """The environment variables that it was claimed with.

        Raises:
            NoAnswerError: as above.
        """
        answer: dict[str, dict[str, str]] = json.loads(await self._ask("GET", "/variables", {}))
        return answer["envVars"]

    async def measure(self, access_token: str | None) -> bytes:
        """What envd says that the sandbox uses, in JSON.

        Raises:
            NoAnswerError: it is gone, or stayed silent for :data:`MEASURE_SECONDS`.
        """
        headers = [] if access_token is None else [(b"x-access-token", access_token.encode())]
        try:
            async with asyncio.timeout(MEASURE_SECONDS):
                connection = await connect(self.layout.sockets, SERVED_PORTS[ENVD_PORT])
                status, answer = await exchange(connection, "GET", "/metrics", b"", headers)
        except TimeoutError:
            raise NoAnswerError(f"envd did not answer within {MEASURE_SECONDS} seconds") from None
        except OSError as error:
            raise NoAnswerError(f"envd is gone: {error}") from error
        if status != 200:
            raise NoAnswerError(f"envd answered {status}")
        return answer

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
        await self._process.ended()

    def asleep(self) -> tuple[int, ...]:
        """Its processes that are stopped already; :meth:`thaw` leaves them so.

        Raises:
            NoAnswerError: it has ended.
        """
        return self._runtime.stopped_processes(self._living())

    async def freeze(self) -> None:
        """Stop all of its processes, with their memory and connections.

        Raises:
            NoAnswerError: it has ended, or does not stop; then it goes on.
        """
        try:
            await self._runtime.freeze(self._living())
        except OSError as error:
            raise NoAnswerError(f"the sandbox cannot be paused: {error}") from error

    def thaw(self, asleep: Collection[int]) -> None:
        """Let all of its processes go on, except ``asleep``.

        Raises:
            NoAnswerError: it has ended.
        """
        try:
            self._runtime.thaw(self._living(), asleep)
        except OSError as error:
            raise NoAnswerError(f"the sandbox cannot go on: {error}") from error

    async def stop(self) -> None:
        """End every process of the sandbox; its folders stay. May be called at any time, also twice."""
        self._drop_leash()
        if self._process is not None:
            self._end_all()
            try:
                await asyncio.wait_for(self._process.ended(), _END_SECONDS)
            except TimeoutError:
                logger.warning("sandbox program %d did not end; killing it", self._process.identity.pid)
                self._process.send(signal.SIGKILL)
                await self._process.ended()
        await self._reap()
        if self._connection is not None:
            await asyncio.to_thread(self._connection.close)
        self.release()
        self._runtime.cleanup(self.layout)

    async def end(self) -> None:
        """End every process of the sandbox and remove its folders. May be called at any time, also twice."""
        await self.stop()
        await asyncio.to_thread(self._runtime.remove, self.layout.root)

    def release(self) -> None:
        """Forget the program; if it was claimed, it goes on, without internet access until somebody finds it."""
        self._drop_leash()
        self._watch.remove(self.layout.root.name)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.close()
            self._process = None

    def _hold(self, process: ProcessHandle) -> None:
        self._process = process
        name = self.layout.root.name
        self._watch.add(name, process.identity.pid, self.layout, self._limits, self._end_all, self._tell)

    def _end_all(self) -> None:
        if self._process is not None:
            self._process.send(self._runtime.end_signal)

    def _living(self) -> int:
        if self._process is None or not self._process.alive:
            raise NoAnswerError("the sandbox's program has ended")
        return self._process.identity.pid

    def _launch(self, *, fresh: bool) -> None:
        if self._child is not None:
            self._child.poll()  # of a program before this one, which ended by itself
        names = [CONTROL, RELAY, *(SERVED_PORTS[port] for port in sorted(self.served_ports))]
        listeners = {name: listen(self.layout.sockets, name) for name in names}
        leash, self._leash = os.pipe()
        descriptors = {"leash": leash, **{name: listener.fileno() for name, listener in listeners.items()}}
        arguments: list[str] = []
        for name, descriptor in descriptors.items():
            arguments += [f"--{name}-fd", str(descriptor)]
        try:
            with self.layout.log.open("ab") as log:
                launched = self._runtime.launch(
                    Launch(self.layout, arguments, list(descriptors.values()), log, self._limits, fresh=fresh)
                )
            self._child = launched.process
            try:
                self._hold(ProcessHandle.of(launched.first_pid or launched.process.pid))
            except ProcessLookupError:
                self._hold(ProcessHandle.of(launched.process.pid))  # our child: there until it is reaped
        finally:
            os.close(leash)
            for listener in listeners.values():
                listener.close()

    async def _tell(self, pid: int, why: str) -> None:
        body = json.dumps({"pid": pid, "why": why}).encode()
        await exchange(await connect(self.layout.sockets, CONTROL), "POST", "/killing", body)

    def _drop_leash(self) -> None:
        if self._leash is not None:
            os.close(self._leash)
            self._leash = None

    async def _reap(self) -> None:
        """Our child, if the program is one's, ends with it."""
        if self._child is None:
            return
        if self._child.poll() is None:
            handle = ProcessHandle.of(self._child.pid)
            try:
                await handle.ended()
            finally:
                handle.close()
            self._child.wait()
        self._child = None

    async def _first_answer(self, path: str, body: Mapping[str, Any], seconds: float) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange("POST", path, body)
        except TimeoutError:
            raise StartError(self._story(f"did not answer within {seconds:g} seconds")) from None
        except OSError as error:
            raise StartError(self._story("ended before it was ready")) from error

    async def _ask(self, method: str, path: str, body: Mapping[str, Any], patience: float = ANSWER_SECONDS) -> bytes:
        try:
            async with asyncio.timeout(patience):
                status, answer = await self._exchange(method, path, body)
        except TimeoutError:
            raise NoAnswerError(f"the sandbox's program did not answer within {patience:g} seconds") from None
        except OSError as error:
            raise NoAnswerError(f"the sandbox's program is gone: {error}") from error
        if status >= 300:
            raise NoAnswerError(f"the sandbox's program answered {status} to {method} {path}")
        return answer

    async def _exchange(self, method: str, path: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        connection = await connect(self.layout.sockets, CONTROL)
        return await exchange(connection, method, path, json.dumps(body).encode())

    def _story(self, what: str) -> str:
        code = self._child.poll() if self._child else None
        ended = f" (exit code {code})" if code is not None else ""
        lines = last_bytes(self.layout.log).decode(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join([f"the sandbox's program {what}{ended}; its last output:", *lines])
