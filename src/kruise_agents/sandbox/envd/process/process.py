"""A running program: its output to every subscriber, its input, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import IO

from ...advice import MOST_OUTPUT, advice_on
from ...connect import Json
from ...linux.process_tree import kill_tree
from ...state import SandboxState
from . import events, terminal
from .events import OutputKind
from .input import Input
from .output import Output

_PIPE_LIMIT = 32768
_TERMINAL_LIMIT = 16384
_QUEUE_LIMIT = 64
_TOO_LARGE = "kruise-agents: ended: a file became larger than the disk limit of this sandbox (serve --disk)\n"


class Subscription:
    """A queue of events from a process to a client's stream. ``on_taken`` is called for each event taken."""

    def __init__(self, on_taken: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_taken = on_taken
        self._queue: deque[Json] = deque()
        self._waiter: asyncio.Future[bool] | None = None
        self._complete = False

    @property
    def full(self) -> bool:
        return len(self._queue) >= _QUEUE_LIMIT

    def put(self, event: Json) -> None:
        """Add an event, even to a full queue."""
        self._queue.append(event)
        self._wake(True)

    def complete(self, last: Json) -> None:
        self._complete = True
        self.put(last)

    async def events(self, keepalive: float) -> AsyncGenerator[Json, None]:
        """Yield events; :meth:`complete` adds the last. In silence, yield a keepalive every ``keepalive`` seconds."""
        while True:
            while self._queue:
                event = self._queue.popleft()
                self._on_taken()
                yield event
            if self._complete:
                return
            if not await self._wait(keepalive):
                yield events.KEEPALIVE

    async def _wait(self, seconds: float) -> bool:
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake, False)
        try:
            return await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self, by_event: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(by_event)


class Process:
    """A process from its start to its end event. The object owns the pipes, or the master side of the terminal.

    The end event is sent when the process has exited **and** its output is at the end of file. Once
    :meth:`send_signal` has been called, the exit is enough, because other programs may hold the pipes open.

    Args:
        config: the ``ProcessConfig`` of the request.
        tag: the client's name for the process.
        on_end: called once with the process and its end event.
        terminal_descriptor: the master side of the terminal; None if the process has pipes.
        state: keeps the manager's reasons for killing processes.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        config: Json,
        tag: str | None,
        on_end: Callable[[Process, Json], None],
        terminal_descriptor: int | None,
        state: SandboxState,
    ) -> None:
        self._state = state
        self._advice: str | None = None
        self.pid = popen.pid
        self.config = config
        self.tag = tag
        self.stdin: Input | None = None
        self.terminal: Input | None = None
        self._terminal_descriptor = terminal_descriptor
        self._popen = popen
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._outputs: list[Output] = []
        self._subscriptions: list[Subscription] = []
        self._paused = False
        self._signalled = False
        self._dumped = False
        self._ended = self._loop.create_future()
        self._deadline: asyncio.TimerHandle | None = None
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._exited)
        self._open_pipes()

    @property
    def exited(self) -> bool:
        return self._popen.returncode is not None

    def info(self) -> Json:
        info = {"config": self.config, "pid": self.pid}
        return info if self.tag is None else {**info, "tag": self.tag}

    def subscribe(self) -> Subscription:
        subscription = Subscription(self._resume_reading)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)
        self._resume_reading()

    def kill_at(self, deadline: float) -> None:
        """Call :meth:`send_signal` with SIGKILL at ``deadline``, in seconds of the event loop's clock."""
        self._deadline = self._loop.call_at(deadline, self._kill)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process alone, not to its group. Raises ProcessLookupError after the end event."""
        if self._ended.done():
            raise ProcessLookupError
        self._signalled = True
        if self.exited:
            self._stop_reading()  # other programs hold the output open
        else:
            signal.pidfd_send_signal(self._pidfd, number)

    async def wait_for_end(self, seconds: float) -> None:
        await asyncio.wait([self._ended], timeout=seconds)

    def resize(self, size: terminal.Size) -> bool:
        """Set the size of the terminal's window. Return False if the process has no terminal."""
        if self._terminal_descriptor is None:
            return False
        terminal.resize(self._terminal_descriptor, size)
        return True

    async def end_now(self) -> None:
        """If the process still runs, kill the process and its descendants. In either case, wait for the end event."""
        if not self.exited:
            self._state.note_kill(self.pid, "the sandbox ends")
            kill_tree(self.pid)
        self._kill()
        await self._ended

    def _open_pipes(self) -> None:
        if self._terminal_descriptor is not None:
            self._add_output(os.dup(self._terminal_descriptor), "pty", _TERMINAL_LIMIT)
            self.terminal = Input(os.dup(self._terminal_descriptor))
            return
        self._add_output(_taken_over(self._popen.stdout), "stdout", _PIPE_LIMIT)
        self._add_output(_taken_over(self._popen.stderr), "stderr", _PIPE_LIMIT)
        if self._popen.stdin is not None:
            self.stdin = Input(_taken_over(self._popen.stdin))

    def _add_output(self, descriptor: int, kind: OutputKind, limit: int) -> None:
        self._outputs.append(Output(descriptor, kind, limit, self._publish, self._end_if_complete))

    def _publish(self, kind: OutputKind, content: bytes) -> None:
        if not self._subscriptions:
            return
        if self._advice is None and len(content) <= MOST_OUTPUT and kind != "pty":
            self._advice = advice_on(content.decode(errors="replace"))
        event = events.data(kind, content)
        for subscription in self._subscriptions:
            subscription.put(event)
        if not self._paused and self._any_full():
            self._paused = True
            for output in self._outputs:
                output.pause()

    def _resume_reading(self) -> None:
        if self._paused and not self._any_full():
            self._paused = False
            for output in self._outputs:
                output.resume()

    def _any_full(self) -> bool:
        return any(subscription.full for subscription in self._subscriptions)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        # Popen does not say if the process dumped core.
        facts = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        self._dumped = facts is not None and facts.si_code == os.CLD_DUMPED
        self._popen.poll()
        if self._signalled:
            self._stop_reading()
        else:
            self._end_if_complete()

    def _stop_reading(self) -> None:
        for output in self._outputs:
            output.finish()
        self._end_if_complete()

    def _end_if_complete(self) -> None:
        if not self.exited or not all(output.closed for output in self._outputs) or self._ended.done():
            return
        self._ended.set_result(None)
        if self._deadline is not None:
            self._deadline.cancel()
        self._close_descriptors()
        below, because = self._state.take_reason_below(self.pid), self._state.take_kill_reason(self.pid)
        event = events.end(self._popen.returncode, dumped=self._dumped, because=because)
        remark = self._remark(because or below)
        for subscription in self._subscriptions:
            if remark:
                subscription.put(events.data("stderr" if self.terminal is None else "pty", remark.encode()))
            subscription.complete(event)
        self._on_end(self, event)

    def _remark(self, why_killed: str | None) -> str | None:
        """Return a line for standard error on a failure: the SDK shows that, and not the end event's reason."""
        code = self._popen.returncode
        if code == 0:
            return None
        if why_killed is not None:
            return f"kruise-agents: killed: {why_killed}\n"
        if code in (-signal.SIGXFSZ, 128 + signal.SIGXFSZ):
            return _TOO_LARGE
        return self._advice

    def _close_descriptors(self) -> None:
        for writer in (self.stdin, self.terminal):
            if writer is not None:
                writer.close_now()
        if self._terminal_descriptor is not None:
            os.close(self._terminal_descriptor)
            self._terminal_descriptor = None
        os.close(self._pidfd)


def _taken_over(pipe: IO[bytes] | None) -> int:
    """Duplicate the descriptor of a Popen object's pipe, close the original, and return the duplicate."""
    assert pipe is not None
    descriptor = os.dup(pipe.fileno())
    pipe.close()
    return descriptor
