"""The service ``process.Process``."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

from ...connect import (
    Call,
    ClientStream,
    Code,
    ConnectError,
    ConnectService,
    Json,
    Message,
    Method,
    ServerStream,
    Unary,
)
from ...state import SandboxState
from ..errors import reason
from ..keepalive import keepalive_interval
from ..paths import PathError, resolve
from ..users import User, Users
from . import events
from .input import Input, InputClosedError
from .process import Process
from .registry import Ended, Registry
from .spawn import SpawnError, spawn
from .terminal import Size, spawn_in_terminal

_SIGNALS = {"SIGNAL_SIGKILL": int(signal.SIGKILL), "SIGNAL_SIGTERM": int(signal.SIGTERM)}
_CLOSE_SECONDS = 5.0
_KILL_SECONDS = 5.0


class ProcessService:
    """The methods of the service: start programs, follow their output, write their input, send them signals."""

    def __init__(self, state: SandboxState, users: Users) -> None:
        self._state = state
        self._users = users
        self._registry = Registry()

    def app(self) -> ConnectService:
        methods: dict[str, Method] = {
            "Start": ServerStream(self._start),
            "Connect": ServerStream(self._connect),
            "List": Unary(self._list),
            "SendInput": Unary(self._send_input),
            "StreamInput": ClientStream(self._stream_input),
            "CloseStdin": Unary(self._close_stdin),
            "SendSignal": Unary(self._send_signal),
            "Update": Unary(self._update),
        }
        return ConnectService(methods, check=self._users.of_call)

    async def close(self) -> None:
        """Kill running processes with their descendants, and wait at most five seconds for their end events."""
        endings = [asyncio.ensure_future(process.end_now()) for process in self._registry.running()]
        if endings:
            _, pending = await asyncio.wait(endings, timeout=_CLOSE_SECONDS)
            for ending in pending:
                ending.cancel()
        self._registry.close()

    async def _start(self, request: Message, call: Call) -> AsyncGenerator[Json, None]:
        """Serve ``Start``. The process is killed at the call's deadline, but runs on when the client leaves."""
        process = self._start_process(request, self._users.of_call(call))
        self._registry.add(process)
        if call.deadline is not None:
            process.kill_at(call.deadline)
        async with contextlib.aclosing(self._follow(process, call)) as stream:
            async for event in stream:
                yield event

    async def _connect(self, request: Message, call: Call) -> AsyncGenerator[Json, None]:
        """Serve ``Connect``: yield ``start``, then the events from now on, or the end event of an ended process."""
        found = self._registry.find_or_ended(request.object("process"))
        if isinstance(found, Ended):
            yield events.start(found.pid)
            yield found.event
            return
        async with contextlib.aclosing(self._follow(found, call)) as stream:
            async for event in stream:
                yield event

    async def _list(self, _request: Message, _call: Call) -> Json:
        return {"processes": [process.info() for process in self._registry.running()]}

    async def _send_input(self, request: Message, _call: Call) -> Json:
        """Serve ``SendInput``: answer when the process's pipe or terminal has taken all the input."""
        await _write(self._find(request), request.object("input"))
        return {}

    async def _stream_input(self, requests: AsyncIterator[Message], _call: Call) -> Json:
        """Serve ``StreamInput``. The end of the client's stream does not close stdin."""
        process: Process | None = None
        async for request in requests:
            if (start := request.object("start")) is not None:
                process = self._find(start)
            elif (data := request.object("data")) is not None:
                if process is None:
                    raise ConnectError(Code.INVALID_ARGUMENT, "input stream has data before its start")
                await _write(process, data.object("input"))
        return {}

    async def _close_stdin(self, request: Message, _call: Call) -> Json:
        process = self._find(request)
        if process.terminal is not None:
            raise ConnectError(
                Code.UNKNOWN,
                "error closing stdin: cannot close stdin for PTY process — send Ctrl+D (0x04) instead",
            )
        if process.stdin is not None:
            await process.stdin.close()
        return {}

    async def _send_signal(self, request: Message, _call: Call) -> Json:
        """Serve ``SendSignal``. SIGKILL is answered when the process has ended, or after five seconds."""
        process = self._find(request)
        number = request.enum("signal", _SIGNALS)
        if number not in _SIGNALS.values() or isinstance(number, str):
            raise ConnectError(Code.UNIMPLEMENTED, f"invalid signal: {number}")
        try:
            process.send_signal(number)
        except ProcessLookupError:
            raise ConnectError(Code.NOT_FOUND, f"process with pid {process.pid} not found") from None
        if number == signal.SIGKILL:
            await process.wait_for_end(_KILL_SECONDS)
        return {}

    async def _update(self, request: Message, _call: Call) -> Json:
        process = self._find(request)
        pty = request.object("pty")
        if pty is not None and not process.resize(_window_size(pty)):
            raise ConnectError(Code.INTERNAL, "error resizing tty: tty not assigned to process")
        return {}

    def _find(self, request: Message) -> Process:
        return self._registry.find(request.object("process"))

    def _start_process(self, request: Message, user: User) -> Process:
        wanted = request.object("process")
        if wanted is None:
            raise ConnectError(Code.INVALID_ARGUMENT, "a process to start is required")
        command = [wanted.text("cmd"), *wanted.texts("args")]
        variables = wanted.text_map("envs")
        environment = {**self._state.environment(user.name, user.home), **variables}
        folder = _working_directory(wanted.text("cwd"), user)
        config: dict[str, Any] = {"cmd": command[0], "args": command[1:], "envs": variables}
        if (cwd := wanted.optional_text("cwd")) is not None:
            config["cwd"] = cwd
        tag = request.optional_text("tag")
        pty = request.object("pty")
        terminal = None
        try:
            if pty is None:
                popen = spawn(command, environment, folder, user, with_stdin=request.flag("stdin", True))
            else:
                popen, terminal = spawn_in_terminal(command, environment, folder, _window_size(pty), user)
        except SpawnError as error:
            text = (
                f"error starting process '{command[0]}': {error}"
                if pty is None
                else f"error starting pty with command '{' '.join(command)}': {error}"
            )
            raise ConnectError(Code.INVALID_ARGUMENT, text) from error
        return Process(popen, config, tag, self._registry.ended, terminal, self._state)

    async def _follow(self, process: Process, call: Call) -> AsyncGenerator[Json, None]:
        subscription = process.subscribe()
        try:
            yield events.start(process.pid)
            async with contextlib.aclosing(subscription.events(keepalive_interval(call))) as following:
                async for event in following:
                    yield event
        finally:
            process.unsubscribe(subscription)


def _window_size(pty: Message) -> Size:
    size = pty.object("size") or Message({})
    return Size(columns=size.uint32("cols"), rows=size.uint32("rows"))


def _working_directory(cwd: str, user: User) -> str:
    try:
        folder = resolve(cwd, user)
    except PathError as error:
        raise ConnectError(Code.INVALID_ARGUMENT, str(error)) from error
    try:
        Path(folder).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ConnectError(Code.INVALID_ARGUMENT, f"cwd '{folder}' does not exist") from None
    except OSError as error:
        raise ConnectError(Code.INVALID_ARGUMENT, f"cwd '{folder}': {reason(error)}") from error
    return folder


async def _write(process: Process, message: Message | None) -> None:
    if message is not None and message.has("stdin"):
        if process.terminal is not None:
            raise _write_error("stdin", "tty assigned to process — input should be written to the pty, not the stdin")
        if process.stdin is None:
            raise _write_error("stdin", "stdin not enabled or closed")
        await _write_to(process.stdin, message.data("stdin"), "stdin")
    elif message is not None and message.has("pty"):
        if process.terminal is None:
            raise _write_error("tty", "tty not assigned to process — input should be written to the stdin, not the tty")
        await _write_to(process.terminal, message.data("pty"), "tty")
    else:
        raise ConnectError(Code.UNIMPLEMENTED, "invalid input type: neither stdin nor pty")


async def _write_to(target: Input, content: bytes, name: str) -> None:
    try:
        await target.write(content)
    except InputClosedError:
        raise _write_error(name, f"{name} not enabled or closed") from None
    except OSError as error:
        raise _write_error(name, reason(error)) from error


def _write_error(name: str, text: str) -> ConnectError:
    return ConnectError(Code.INTERNAL, f"error writing to {name}: {text}")
