"""Executions of code in a context. The messages of the kernel become the lines of the answer."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress

from ..advice import advice_on
from .contexts import Context
from .environment import Changes, difference, restoration
from .errors import ContextNotFoundError, KernelEndedError, KernelError
from .jupyter_messages import Message
from .kernels import Kernel
from .languages import REPEAT_SECONDS
from .late_output import LateOutput
from .lines import (
    ABORTED,
    CONTEXT_RESTARTING,
    CONTEXT_WAS_REPLACED,
    END,
    UNEXPECTED_END,
    Line,
    error_line,
    result_fields,
)

# Time is counted in steps, because the clock goes on while a pause stops this process together with the kernel.
STEP_SECONDS = 1.0
REPLY_SECONDS = 0.2  # to wait for the reply of a kernel that has reported that it is idle


_NO_MEMORY = (
    "the code asked for more memory at once than the machine has free, for example for a very large array; a sandbox "
    "that takes more than its limit (serve --memory) is not told this way, but killed"
)


class Transcript:
    """A state machine that turns a kernel's messages about a request into lines of the answer.

    ``accepted`` means that the kernel runs the code and can be interrupted. ``replied`` means that the kernel's reply
    has come. The reply comes on the channel shell, and the other messages come on the channel iopub.
    """

    def __init__(self) -> None:
        self.accepted = False
        self.replied = False
        self.advice: Line | None = None
        self._idle = False
        self._failed = False

    @property
    def finished(self) -> bool:
        return self._idle and (self.accepted or self.replied)

    def lines(self, message: Message) -> Iterator[Line]:
        content = message.content
        match message.kind:
            case "execute_input":
                self.accepted = True
                yield {"type": "number_of_executions", "execution_count": content["execution_count"]}
            case "stream" if content["name"] in ("stdout", "stderr"):
                self._look_through(content["text"], message.date)
                yield {"type": content["name"], "text": content["text"], "timestamp": message.date}
            case "display_data" | "execute_result":
                main = message.kind == "execute_result"
                yield {"type": "result", "is_main_result": main, **result_fields(content["data"])}
            case "error":
                self._look_through(str(content.get("evalue", "")), message.date)
                yield from self._error(content)
            case "execute_reply":
                self.replied = True
                if content["status"] == "error":
                    yield from self._error(content)
                elif content["status"] in ("aborted", "abort"):
                    # Nothing ran, and some kernels do not report that they are idle after that.
                    self._idle = True
                    yield ABORTED
            case "status":
                self._idle = self._idle or content["execution_state"] == "idle"

    def _look_through(self, text: str, date: str) -> None:
        if self.advice is None and (advice := advice_on(text)) is not None:
            self.advice = {"type": "stderr", "text": advice, "timestamp": date}

    def _error(self, content: Mapping[str, object]) -> Iterator[Line]:
        if not self._failed:
            self._failed = True
            yield _error_from(content)


def _error_from(content: Mapping[str, object]) -> Line:
    # E2B joins the parts of the traceback without a separator, so that its first lines stick together.
    name, value, parts = str(content.get("ename", "")), str(content.get("evalue", "")), content.get("traceback")
    traceback = "\n".join(map(str, parts)) if isinstance(parts, list) else ""
    if name == "MemoryError" and not value:
        value, traceback = _NO_MEMORY, f"{traceback}{_NO_MEMORY}"
    return error_line(name, value, traceback)


class Execution:
    """Code that runs in a context after the context's earlier executions, with additional environment ``variables``."""

    def __init__(self, context: Context, code: str, variables: Mapping[str, str]) -> None:
        self._context = context
        self._code = code
        self._variables = variables
        self._write: Callable[[Line], Awaitable[None]] | None = None
        self._transcript = Transcript()
        self._late: LateOutput | None = None
        self._abandoned = False
        self._ended = False
        self._kernel: Kernel | None = None
        self._interrupted = False
        self._limit: asyncio.Task[None] | None = None
        self._waited = 0  # seconds in which nobody waited for the execution, and the kernel did not answer
        self._task: asyncio.Task[None] | None = None

    def start(self, write: Callable[[Line], Awaitable[None]]) -> asyncio.Task[None]:
        """Start the execution. Until :meth:`abandon`, ``write`` gets the lines of the answer. The last line is ``END``.

        The returned task ends when the execution does not use the kernel any more, which may be after ``END``.
        """
        self._write = write
        self._task = asyncio.create_task(self._run())
        return self._task

    def abandon(self) -> None:
        """Stop the code, because the client has gone. Code that no kernel has received yet is not run."""
        self._abandoned = True
        if self._kernel is None and self._task is not None:
            self._task.cancel()
        self._interrupt_if_abandoned()
        if self._context.on_client_left is not None:
            self._context.on_client_left()

    async def _run(self) -> None:
        async with self._context.lock:
            try:
                if self._context.lost:
                    self._context.lost = False
                    await self._send(CONTEXT_WAS_REPLACED)
                    await self._send(END)
                    return
                kernel = self._kernel = await self._context.kernel()
                self._context.on_client_left = self._limit_if_unattended
                await self._run_in(kernel)
            except KernelEndedError:
                if self._unattended and self._kernel is not None and not self._kernel.stopped:
                    self._context.lost = True
                await self._send(UNEXPECTED_END if self._context.removed else self._restarting())
                await self._send(END)
            except (KernelError, ContextNotFoundError) as error:
                await self._send({**UNEXPECTED_END, "traceback": str(error)})
                await self._send(END)
            finally:
                self._context.on_client_left = None
                if self._limit is not None:
                    self._limit.cancel()

    def _restarting(self) -> Line:
        """Return the error for a kernel that ended while it ran the code, with the reason where one is known."""
        kernel = self._kernel
        if kernel is None or kernel.stopped or kernel.exit_code is None:
            return CONTEXT_RESTARTING
        why = self._context.state.take_kill_reason(kernel.pid)
        if why is not None:
            reason = f"was killed: {why}"
        elif kernel.exit_code >= 0:
            reason = f"was ended by the code, with exit code {kernel.exit_code}"
        else:
            reason = f"was ended by a signal: {signal.strsignal(-kernel.exit_code) or -kernel.exit_code}"
        if why is None and kernel.exit_code == -signal.SIGKILL:
            reason += ". That is also how the memory limit (serve --memory) ends programs"
        return {**CONTEXT_RESTARTING, "traceback": f"The kernel {reason}. Variables are lost; the next call works."}

    async def _run_in(self, kernel: Kernel) -> None:
        base = self._context.state.environment()
        problem = await self._set(kernel, difference(kernel.environment, base))
        kernel.environment = base
        problem = problem or await self._set(kernel, self._variables)
        try:
            if problem is not None:
                await self._send(problem)
            elif not self._abandoned:
                await self._stream(kernel)
            await self._send(END)
        finally:
            # After the last line, so that only the next execution has to wait for the restoration.
            await self._set(kernel, restoration(self._variables, base))

    async def _set(self, kernel: Kernel, changes: Changes) -> Line | None:
        """Set environment variables. Return an error line for an impossible change, such as a name with ``=``."""
        if not changes:
            return None
        if kernel.spec.assignment is None:
            return error_line(
                "EnvironmentError", f"variables of a single call cannot be set in {self._context.language} here", ""
            )
        reply = await kernel.execute_silently(kernel.spec.assignment(changes))
        return _error_from(reply.content) if reply.content["status"] == "error" else None

    async def _stream(self, kernel: Kernel) -> None:
        with kernel.execute(self._code) as replies:
            while not self._transcript.finished:
                await self._pass_on(await replies.next())
            # The reply has nearly always come by now. A kernel that is interrupted while no code runs sends none.
            with suppress(TimeoutError):
                while not self._transcript.replied:
                    async with asyncio.timeout(REPLY_SECONDS):
                        message = await replies.next()
                    await self._pass_on(message)
            if self._transcript.advice is not None:
                await self._send(self._transcript.advice)
            self._late = kernel.mark(replies)
            self._interrupt_if_abandoned()
            while self._late is not None and not self._late.finished:
                late = self._late.strip(await replies.next())
                if late is not None:
                    await self._pass_on(late)

    async def _pass_on(self, message: Message) -> None:
        state = self._transcript.accepted, self._transcript.finished
        for line in self._transcript.lines(message):
            await self._send(line)
        if state != (self._transcript.accepted, self._transcript.finished):
            self._waited = 0
        self._interrupt_if_abandoned()

    async def _send(self, line: Line) -> None:
        if self._write is not None and not self._unattended:
            self._ended = line is END
            await self._write(line)

    @property
    def _unattended(self) -> bool:
        return self._abandoned or self._ended

    def _interrupt_if_abandoned(self) -> None:
        if self._abandoned and self._transcript.accepted and not self._interrupted:
            self._interrupted = True
            self._interrupt()

    def _interrupt(self) -> None:
        late = self._late is not None and not self._late.finished
        if self._kernel is not None and (late or not self._transcript.finished):
            self._kernel.interrupt()

    def _limit_if_unattended(self) -> None:
        if self._unattended and self._limit is None and self._kernel is not None:
            self._limit = asyncio.create_task(self._end_in_time(self._kernel))

    async def _end_in_time(self, kernel: Kernel) -> None:
        """Repeat the interrupt, and end a kernel that does not answer, so that its context becomes usable again."""
        while self._waited < kernel.spec.stop_seconds:
            await asyncio.sleep(STEP_SECONDS)
            self._waited += 1
            if self._interrupted and self._waited % REPEAT_SECONDS == 0 and self._waited < kernel.spec.stop_seconds:
                self._interrupt()
        kernel.kill()
