"""The process and the folders of one sandbox: launched, claimed, found again, frozen, stopped, removed."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from ...protocol.control import CONTROL_SOCKET, RELAY_SOCKET, SERVED_PORTS, InitSettings, ProgramDescriptors
from ...protocol.names import CODE_INTERPRETER_PORT, ENVD_PORT
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
from ..runtime.limits.log_file import last_bytes, open_log
from ..runtime.network import host_names
from ..unix_http import HttpConnection, KeptConnections
from .control_client import START_SECONDS, ControlClient, NoAnswerError, StartError
from .sockets import connect_port, listen

_END_SECONDS = 3.0
_LOG_LINES = 20
_LOOKUP_SECONDS = 2.0  # a name that is not found by then is closed until it is found

logger = logging.getLogger(__name__)


class SandboxProcess:
    """The parts of one sandbox that exist outside the manager: processes, sockets, folders.

    A start has two steps, :meth:`launch` and :meth:`claim`; a sandbox of a pool waits between the two steps. Before the
    claim, the end of the manager's process ends the sandbox too. A claimed sandbox can outlive the manager.
    :meth:`stopped_processes`, :meth:`freeze` and :meth:`thaw` raise :class:`NoAnswerError` if the program has ended.
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
        self.control = ControlClient(layout.sockets, self._report)
        self._served_ports = frozenset(SERVED_PORTS) - (frozenset() if code_interpreter else {CODE_INTERPRETER_PORT})
        self._runtime = runtime
        self._limits = limits
        self._watch = watch
        self._egress = egress
        self._connection: Connection | None = None
        self._names_task: asyncio.Task[None] | None = None
        self._process: ProcessHandle | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._parent_pipe: int | None = None
        self._kept = KeptConnections()
        self.whole_paths: set[int] = set()
        """Ports whose programs expect ``/kruise/<id>/<port>`` in the paths of requests."""

    @property
    def identity(self) -> ProcessIdentity | None:
        """The identity of the sandbox's first process; None before :meth:`launch` or :meth:`find`, and after a stop."""
        return self._process.identity if self._process is not None else None

    @property
    def alive(self) -> bool:
        """Return whether the program that was launched or found still runs."""
        return self._process is not None and self._process.alive

    async def fill(self, files: Path) -> None:
        """Make the folders, with a copy of the file tree ``files``, for a launch with ``prepared=True``."""
        await asyncio.to_thread(self._runtime.make_folders, self.layout, self._limits)
        await self._runtime.copy(files, self.layout.rootfs)

    async def renew(self, files: Path | None) -> None:
        """Replace the folders of a stopped sandbox by those of a new one, with a copy of ``files`` if given."""
        await asyncio.to_thread(self._runtime.remove_sandbox, self.layout.root)
        if files is None:
            self._prepare()
        else:
            await self.fill(files)

    def launch(self, *, prepared: bool = False) -> None:
        """Start the program, and return before it is ready. With ``prepared``, the folders exist already.

        Raises StartError if the program could not be started, OSError if the folders could not be made.
        """
        if not prepared:
            self._prepare()
        try:
            self._launch(fresh=not prepared)
        except OSError as error:
            raise StartError(f"the sandbox's program could not be started: {error}") from error

    async def claim(
        self,
        access_token: str | None,
        variables: Mapping[str, str],
        seconds_left: float | None,
        *,
        patience: float = START_SECONDS,
    ) -> None:
        """Give the launched program its settings, wait for its answer, and let the program outlive the manager.

        The program ends by itself after ``seconds_left`` and a grace period; None: never. A :class:`StartError` is
        raised if the program does not answer within ``patience`` seconds.
        """
        self._runtime.refresh(self.layout)  # a pooled sandbox may have waited for long
        await self.control.init(InitSettings(access_token, dict(variables), seconds_left), patience)
        self._close_parent_pipe()

    def find(self, identity: ProcessIdentity) -> bool:
        """Take over a program that an earlier manager started. Return False if the program runs no longer."""
        process = ProcessHandle.find(identity)
        if process is not None:
            self._hold(process)
        return process is not None

    async def attach(self, rules: EgressRules) -> None:
        """Connect the sandbox's own network, if any, to the internet within ``rules``. Raises StartError on failure."""
        if self._process is None or not self._runtime.own_network or self._egress.carrier is None:
            return
        hosts = await self._egress.host_names.find(rules.names, _LOOKUP_SECONDS)
        try:
            self._connection = await asyncio.to_thread(self._egress.attach, self._process.identity.pid, rules, hosts)
        except OSError as error:
            raise StartError(self._report(f"could not be connected to the internet: {error}")) from error
        self._follow(rules.names)

    async def change_rules(self, rules: EgressRules) -> None:
        if self._connection is not None:
            hosts = await self._egress.host_names.find(rules.names, _LOOKUP_SECONDS)
            self._follow(())
            await asyncio.to_thread(self._connection.change, rules, hosts)
            self._follow(rules.names)

    async def connect(self, port: int) -> HttpConnection:
        """Return a connection to a port, perhaps one that was kept. Raises what :func:`connect_port` raises."""
        kept = self._kept.take(port)
        return kept or await HttpConnection.on(await connect_port(self.layout.sockets, port, self._served_ports))

    def keep(self, port: int, connection: HttpConnection) -> None:
        """Keep a connection for a next request, or close it if the port belongs to a program of the sandbox's user."""
        # Other programs than ours may close an idle connection at any moment, and a request would be lost.
        if port in self._served_ports and self._process is not None:
            self._kept.give(port, connection)
        else:
            connection.transport.close()

    async def ended(self) -> None:
        assert self._process is not None
        await self._process.ended()

    def stopped_processes(self) -> tuple[int, ...]:
        """Return the pids of stopped processes, which :meth:`thaw` must leave stopped. Call this before a freeze."""
        return self._runtime.stopped_processes(self._living())

    async def freeze(self) -> None:
        """Freeze the processes, with their memory and connections. After a NoAnswerError, no process is frozen."""
        try:
            await self._runtime.freeze(self._living())
        except OSError as error:
            raise NoAnswerError(f"the sandbox cannot be paused: {error}") from error

    def thaw(self, stopped: Collection[int]) -> None:
        try:
            self._runtime.thaw(self._living(), stopped)
        except OSError as error:
            raise NoAnswerError(f"the sandbox cannot go on: {error}") from error

    async def stop(self) -> None:
        """End every process; the folders stay. May be called at any time, also more than once."""
        self._follow(())
        self._close_parent_pipe()
        if self._process is not None:
            self._end_all()
            await _ended_or_killed(self._process)
        await self._reap()
        if self._connection is not None:
            await asyncio.to_thread(self._connection.close)
        self.release()
        self._runtime.cleanup(self.layout)

    async def end(self) -> None:
        """End every process and remove the folders. May be called at any time, also more than once."""
        await self.stop()
        await asyncio.to_thread(self._runtime.remove_sandbox, self.layout.root)

    def release(self) -> None:
        """Close the descriptors and the internet connection. A claimed program runs on; an unclaimed program ends."""
        self._close_parent_pipe()
        self._follow(())
        self._kept.close()
        self._watch.remove(self.layout.label)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.close()
            self._process = None

    def _follow(self, names: Collection[str]) -> None:
        # Keep the addresses of these names up to date from now on, and no longer those of other names.
        if self._names_task is not None:
            self._names_task.cancel()
            self._names_task = None
        if names and self._connection is not None:
            self._names_task = asyncio.create_task(self._keep_names(self._connection, names))

    async def _keep_names(self, connection: Connection, names: Collection[str]) -> None:
        while self.alive:
            await asyncio.sleep(host_names.SECONDS)
            hosts = await self._egress.host_names.find(names)
            try:
                if self.alive:
                    await asyncio.to_thread(connection.learn, hosts)
            except OSError as error:
                logger.warning("addresses of host names in sandbox %s: %s", self.layout.label, error)

    def _hold(self, process: ProcessHandle) -> None:
        self._process = process
        self._watch.add(
            self.layout.label,
            process.identity.pid,
            self.layout,
            self._limits,
            self._end_all,
            self.control.announce_kill,
        )

    def _end_all(self) -> None:
        if self._process is not None:
            self._process.send(self._runtime.end_signal)

    def _living(self) -> int:
        if self._process is None or not self._process.alive:
            raise NoAnswerError("the sandbox's program has ended")
        return self._process.identity.pid

    def _prepare(self) -> None:
        self._runtime.make_folders(self.layout, self._limits)
        self._runtime.prepare(self.layout)

    def _launch(self, *, fresh: bool) -> None:
        if self._child is not None:
            self._child.poll()  # reap an earlier program that ended by itself
        names = [CONTROL_SOCKET, RELAY_SOCKET, *(SERVED_PORTS[port] for port in sorted(self._served_ports))]
        listeners = {name: listen(self.layout.sockets, name) for name in names}
        parent_pipe, self._parent_pipe = os.pipe()
        interpreter = listeners.get(SERVED_PORTS[CODE_INTERPRETER_PORT])
        descriptors = ProgramDescriptors(
            parent_pipe=parent_pipe,
            control=listeners[CONTROL_SOCKET].fileno(),
            relay=listeners[RELAY_SOCKET].fileno(),
            envd=listeners[SERVED_PORTS[ENVD_PORT]].fileno(),
            code_interpreter=None if interpreter is None else interpreter.fileno(),
        )
        try:
            with open_log(self.layout.log, "ab") as log:
                launched = self._runtime.launch(Launch(self.layout, descriptors, log, self._limits, fresh=fresh))
            self._child = launched.process
            try:
                self._hold(ProcessHandle.of(launched.first_pid or launched.process.pid))
            except ProcessLookupError:
                self._hold(ProcessHandle.of(launched.process.pid))  # our own child exists until it is reaped
        finally:
            os.close(parent_pipe)
            for listener in listeners.values():
                listener.close()

    def _close_parent_pipe(self) -> None:
        if self._parent_pipe is not None:
            os.close(self._parent_pipe)
            self._parent_pipe = None

    async def _reap(self) -> None:
        """Wait for this manager's child process, if any, and reap it. It ends when the sandbox's program ends."""
        if self._child is None:
            return
        if self._child.poll() is None:
            handle = ProcessHandle.of(self._child.pid)
            try:
                await _ended_or_killed(handle)
            finally:
                handle.close()
            self._child.wait()
        self._child = None

    def _report(self, sentence: str) -> str:
        code = self._child.poll() if self._child else None
        ended = f" (exit code {code})" if code is not None else ""
        lines = last_bytes(self.layout.log).decode(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join([f"the sandbox's program {sentence}{ended}; its last output:", *lines])


async def _ended_or_killed(process: ProcessHandle) -> None:
    """Wait for the end of a process that is about to end. Kill a process that takes too long, as after a SIGSTOP."""
    try:
        await asyncio.wait_for(process.ended(), _END_SECONDS)
    except TimeoutError:
        logger.warning("process %d of a sandbox did not end; killing it", process.identity.pid)
        process.send(signal.SIGKILL)
        await process.ended()
