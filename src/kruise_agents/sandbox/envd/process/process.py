"""One running program: its output to every subscriber, its input, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...connect import Json
from . import events, terminal
from .events import OutputKind
from .input import Input
from .output import Output
from .subscription import Subscription

if TYPE_CHECKING:
    from typing import IO

_PIPE_LIMIT = 32768
_TERMINAL_LIMIT = 16384


class Process:
    """A process from its start to its end event.

    It ends for its subscribers when it has exited **and** its output is at the end of file; after a signal that was
    sent here, its exit is enough, for others may hold the pipes open.

    Args:
        popen: the process; its pipes are taken over.
        config: ``ProcessConfig`` as it was requested.
        tag: the client's name for it.
        on_end: called once with the process and its end event.
        terminal_descriptor: the operating side of its terminal, which is taken over.
        why_killed: tells why the manager killed a process, if it did.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        config: Json,
        tag: str | None,
        on_end: Callable[[Process, Json], None],
        terminal_descriptor: int | None = None,
        why_killed: Callable[[int], str | None] = lambda _pid: None,
    ) -> None:
        self._why_killed = why_killed
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
        """Whether the process is gone, be its output still open or not."""
        return self._popen.returncode is not None

    def info(self) -> Json:
        """``ProcessInfo``."""
        info = {"config": self.config, "pid": self.pid}
        return info if self.tag is None else {**info, "tag": self.tag}

    def subscribe(self) -> Subscription:
        """Follow the events from now on; to be ended with :meth:`unsubscribe`."""
        subscription = Subscription(self._read_on)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Follow no more; the process goes on."""
        self._subscriptions.remove(subscription)
        self._read_on()

    def kill_at(self, deadline: float) -> None:
        """SIGKILL when the event loop's clock (seconds) says so."""
        self._deadline = self._loop.call_at(deadline, self._kill)

    def send_signal(self, number: int) -> None:
        """Send a signal to this process alone, not to its group.

        Raises:
            ProcessLookupError: it has ended.
        """
        if self._ended.done():
            raise ProcessLookupError
        self._signalled = True
        if self.exited:
            self._stop_reading()
        else:
            signal.pidfd_send_signal(self._pidfd, number)

    async def ended(self, seconds: float) -> bool:
        """Wait for the end event, ``seconds`` at most; whether it came."""
        done, _ = await asyncio.wait([self._ended], timeout=seconds)
        return bool(done)

    def resize(self, size: terminal.Size) -> bool:
        """Set the size of the terminal's window; False if there is no terminal."""
        if self._terminal_descriptor is None:
            return False
        terminal.resize(self._terminal_descriptor, size)
        return True

    async def end_now(self) -> None:
        """Kill the process and its group, and wait for its end event."""
        if not self.exited:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
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
        event = events.data(kind, content)
        for subscription in self._subscriptions:
            subscription.put(event)
        if not self._paused and self._someone_is_slow():
            self._paused = True
            for output in self._outputs:
                output.pause()

    def _read_on(self) -> None:
        if self._paused and not self._someone_is_slow():
            self._paused = False
            for output in self._outputs:
                output.resume()

    def _someone_is_slow(self) -> bool:
        return any(subscription.full for subscription in self._subscriptions)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        # Popen keeps nothing of this.
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
        event = events.end(self._popen.returncode, dumped=self._dumped, because=self._why_killed(self.pid))
        for subscription in self._subscriptions:
            subscription.complete(event)
        self._on_end(self, event)

    def _close_descriptors(self) -> None:
        for writer in (self.stdin, self.terminal):
            if writer is not None:
                writer.cut()
        if self._terminal_descriptor is not None:
            os.close(self._terminal_descriptor)
            self._terminal_descriptor = None
        os.close(self._pidfd)


def _taken_over(pipe: IO[bytes] | None) -> int:
    """The descriptor of a pipe that Popen then knows nothing of any more."""
    assert pipe is not None
    descriptor = os.dup(pipe.fileno())
    pipe.close()
    return descriptor
