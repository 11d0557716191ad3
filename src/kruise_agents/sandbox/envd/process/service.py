"""The methods of ``process.Process``."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, AsyncIterator

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
from ..keepalive import keepalive_interval
from ..users import Users
from . import events
from .input import Input, InputClosedError
from .process import Process
from .registry import Ended, Registry
from .start import start_process, window_size

_SIGNALS = {"SIGNAL_SIGKILL": int(signal.SIGKILL), "SIGNAL_SIGTERM": int(signal.SIGTERM)}
_CLOSE_SECONDS = 5.0
_KILL_SECONDS = 5.0


class ProcessService:
    """Starts programs and lets clients follow, feed and signal them."""

    def __init__(self, state: SandboxState, users: Users) -> None:
        self._state = state
        self._users = users
        self._registry = Registry()

    def app(self) -> ConnectService:
        """The ASGI application, to be mounted on ``/process.Process``."""
        methods: dict[str, Method] = {
            "Start": ServerStream(self.start),
            "Connect": ServerStream(self.connect),
            "List": Unary(self.list),
            "SendInput": Unary(self.send_input),
            "StreamInput": ClientStream(self.stream_input),
            "CloseStdin": Unary(self.close_stdin),
            "SendSignal": Unary(self.send_signal),
            "Update": Unary(self.update),
        }
        return ConnectService(methods, check=self._users.of_call)

    async def close(self) -> None:
        """Kill everything that runs. A process that the kernel cannot end is given up after five seconds."""
        endings = [asyncio.ensure_future(process.end_now()) for process in self._registry.running()]
        if endings:
            _, pending = await asyncio.wait(endings, timeout=_CLOSE_SECONDS)
            for ending in pending:
                ending.cancel()
        self._registry.close()

    async def start(self, request: Message, call: Call) -> AsyncGenerator[Json, None]:
        """``Start``. The deadline is that of the process too; a client that goes does not end it."""
        process = start_process(request, self._state, self._users.of_call(call), self._registry.ended)
        self._registry.add(process)
        if call.deadline is not None:
            process.kill_at(call.deadline)
        async with contextlib.aclosing(self._follow(process, call)) as stream:
            async for event in stream:
                yield event

    async def connect(self, request: Message, call: Call) -> AsyncGenerator[Json, None]:
        """``Connect``: what happens from now on; of a process that has just ended, its end."""
        found = self._registry.find_or_ended(request.message("process"))
        if isinstance(found, Ended):
            yield events.start(found.pid)
            yield found.event
            return
        async with contextlib.aclosing(self._follow(found, call)) as stream:
            async for event in stream:
                yield event

    async def list(self, _request: Message, _call: Call) -> Json:
        """``List``."""
        return {"processes": [process.info() for process in self._registry.running()]}

    async def send_input(self, request: Message, _call: Call) -> Json:
        """``SendInput``: answered when the process's pipe has taken everything."""
        await _write(self._registry.find(request.message("process")), request.message("input"))
        return {}

    async def stream_input(self, requests: AsyncIterator[Message], _call: Call) -> Json:
        """``StreamInput``. Its end does not close stdin."""
        process: Process | None = None
        async for request in requests:
            if (start := request.message("start")) is not None:
                process = self._registry.find(start.message("process"))
            elif (data := request.message("data")) is not None:
                if process is None:
                    raise ConnectError(Code.INVALID_ARGUMENT, "input stream has data before its start")
                await _write(process, data.message("input"))
        return {}

    async def close_stdin(self, request: Message, _call: Call) -> Json:
        """``CloseStdin``."""
        process = self._registry.find(request.message("process"))
        if process.terminal is not None:
            raise ConnectError(
                Code.UNKNOWN,
                "error closing stdin: cannot close stdin for PTY process — send Ctrl+D (0x04) instead",
            )
        if process.stdin is not None:
            await process.stdin.close()
        return {}

    async def send_signal(self, request: Message, _call: Call) -> Json:
        """``SendSignal``. SIGKILL is answered when the process is gone, unless the kernel takes its time."""
        process = self._registry.find(request.message("process"))
        number = request.enum("signal", _SIGNALS)
        if number not in _SIGNALS.values() or isinstance(number, str):
            raise ConnectError(Code.UNIMPLEMENTED, f"invalid signal: {number}")
        try:
            process.send_signal(number)
        except ProcessLookupError:
            raise ConnectError(Code.NOT_FOUND, f"process with pid {process.pid} not found") from None
        if number == signal.SIGKILL:
            await process.ended(_KILL_SECONDS)
        return {}

    async def update(self, request: Message, _call: Call) -> Json:
        """``Update``: the size of a terminal's window."""
        process = self._registry.find(request.message("process"))
        pty = request.message("pty")
        if pty is not None and not process.resize(window_size(pty)):
            raise ConnectError(Code.INTERNAL, "error resizing tty: tty not assigned to process")
        return {}

    async def _follow(self, process: Process, call: Call) -> AsyncGenerator[Json, None]:
        subscription = process.subscribe()
        try:
            yield events.start(process.pid)
            async with contextlib.aclosing(subscription.events(keepalive_interval(call))) as following:
                async for event in following:
                    yield event
        finally:
            process.unsubscribe(subscription)


async def _write(process: Process, what: Message | None) -> None:
    if what is not None and what.has("stdin"):
        if process.terminal is not None:
            raise _stdin_error("tty assigned to process — input should be written to the pty, not the stdin")
        if process.stdin is None:
            raise _stdin_error("stdin not enabled or closed")
        await _write_to(process.stdin, what.data("stdin"), "stdin")
    elif what is not None and what.has("pty"):
        if process.terminal is None:
            raise ConnectError(
                Code.INTERNAL,
                "error writing to tty: tty not assigned to process — input should be written to the stdin, not the tty",
            )
        await _write_to(process.terminal, what.data("pty"), "tty")
    else:
        raise ConnectError(Code.UNIMPLEMENTED, "invalid input type: neither stdin nor pty")


async def _write_to(target: Input, content: bytes, name: str) -> None:
    try:
        await target.write(content)
    except InputClosedError:
        raise ConnectError(Code.INTERNAL, f"error writing to {name}: {name} not enabled or closed") from None
    except OSError as error:
        text = f"error writing to {name}: {(error.strerror or str(error)).lower()}"
        raise ConnectError(Code.INTERNAL, text) from error


def _stdin_error(text: str) -> ConnectError:
    return ConnectError(Code.INTERNAL, f"error writing to stdin: {text}")
