"""Jupyter kernels from start to end, with their requests and interrupts.

Messages are read between requests too, so that the output of background threads does not pile up. A message goes to the
running request that caused it, and other messages are dropped. When a request's reader is slow, the kernel waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP
from typing import Any

import zmq
import zmq.asyncio

from .errors import KernelEndedError, KernelStartError
from .jupyter_messages import UNREADABLE, Endpoint, Message
from .languages import KernelSpec
from .late_output import LateOutput
from .process import KernelProcess

START_SECONDS = 60.0
INTERRUPT_SECONDS = 1.0  # until the socket of an interrupt request is closed
RECONNECT_MILLISECONDS = 5  # between attempts to reach a starting kernel; ZeroMQ's 100 would delay the start
MESSAGES_IN_FLIGHT = 16  # that may wait here before the kernel's output channel blocks
LAST_OUTPUT_MILLISECONDS = 20  # silence after which the output channel of an ended process counts as empty


class Replies:
    """A queue of the messages that a request causes."""

    def __init__(self, request_id: str) -> None:
        self.request_ids = {request_id}
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue(MESSAGES_IN_FLIGHT)

    async def next(self) -> Message:
        """Return the next message. Raise KernelEndedError after the last message of an ended or stopped kernel."""
        message = await self._queue.get()
        self._queue.task_done()
        if message is None:
            raise KernelEndedError("the kernel has ended")
        return message

    async def put(self, message: Message | None) -> None:
        """Add a message, or None for the end of the kernel; wait while the queue is full."""
        await self._queue.put(message)

    @property
    def full(self) -> bool:
        return self._queue.full()

    async def drained(self) -> None:
        await self._queue.join()

    def discard(self) -> None:
        """Drop unread messages, which also releases a waiting :meth:`put`."""
        while not self._queue.empty():
            self._queue.get_nowait()
            self._queue.task_done()

    def stop(self) -> None:
        """Drop unread messages, and have :meth:`next` raise KernelEndedError, because the kernel is being stopped."""
        self.discard()
        self._queue.put_nowait(None)


class Kernel:
    """A kernel that runs one request at a time. ``environment`` lacks the variables that ``/execute`` requests add."""

    def __init__(
        self,
        process: KernelProcess,
        endpoint: Endpoint,
        context: zmq.asyncio.Context,
        spec: KernelSpec,
        environment: Mapping[str, str],
    ) -> None:
        self.spec = spec
        self.environment = environment
        self.ended = asyncio.Event()
        self._process = process
        self._endpoint = endpoint
        self._context = context
        self._replies: Replies | None = None
        self.stopped = False  # True if the kernel was ended by :meth:`shutdown`
        self._request_numbers = count(1)
        self._shell = self._connected("shell", zmq.DEALER)
        self._iopub = self._connected("iopub", zmq.SUB)
        self._readers = [asyncio.create_task(self._read(socket)) for socket in (self._shell, self._iopub)]
        self._when_ended: Callable[[], None] = lambda: None
        self._ending: asyncio.Task[None] | None = None
        process.on_end(self._on_process_end)

    def on_end(self, callback: Callable[[], None]) -> None:
        self._when_ended = callback
        if self._process.ended.is_set():
            callback()

    async def wait_until_ready(self) -> None:
        """Wait until the kernel answers and its output arrives. Raise KernelStartError if that does not happen."""
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._answers():
                    pass
        except TimeoutError:
            problem = f"did not answer within {START_SECONDS:g} seconds"
        except KernelEndedError:
            problem = "ended before it was ready"
        else:
            return
        last_output = self._process.last_output()
        await self.shutdown()
        raise KernelStartError(f"the kernel {problem}" + (f": {last_output}" if last_output else ""))

    @contextmanager
    def execute(self, code: str, *, silent: bool = False) -> Iterator[Replies]:
        """Send ``code``, and yield the replies to it. Silent code is neither counted nor kept in the history.

        Raises KernelEndedError if the kernel has ended. Reading the replies can raise the same error.
        """
        with self._request("execute_request", _execute_content(code, silent)) as replies:
            yield replies

    def mark(self, replies: Replies) -> LateOutput | None:
        """Have the kernel print a mark behind the output of a finished request. The mark arrives in ``replies``.

        Return the filter that removes the mark from the output. If ``spec.mark`` is None, do nothing and return None.
        """
        if self.spec.mark is None:
            return None
        request_id = self._next_id()
        late = LateOutput(request_id)
        replies.request_ids.add(request_id)
        self._send("execute_request", _execute_content(self.spec.mark(late.mark), silent=True), request_id)
        return late

    async def execute_silently(self, code: str) -> Message:
        with self.execute(code, silent=True) as replies:
            reply: Message | None = None
            idle = False
            while reply is None or not idle:
                message = await replies.next()
                if message.kind == "execute_reply":
                    reply = message
                idle = idle or message.content.get("execution_state") == "idle"
            return reply

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code of an ended kernel, or the number of the signal that ended it, with a minus; None before."""
        return self._process.exit_code

    def interrupt(self) -> None:
        """Interrupt the running code. An idle Python or Bash kernel ignores a first interrupt."""
        if self.spec.interrupt == "signal":
            self._process.signal(SIGINT)
        else:
            control = self._connected("control", zmq.DEALER)
            control.send_multipart(self._endpoint.pack("interrupt_request", {}, self._next_id()))
            asyncio.get_running_loop().call_later(INTERRUPT_SECONDS, control.close, 0)

    def kill(self) -> None:
        """End the process at once. A running request ends with KernelEndedError."""
        self._process.signal(SIGKILL)

    async def shutdown(self, grace: float = 0.0) -> None:
        """End the kernel, and wait until its process has ended and its files are removed.

        With ``grace``, the kernel is interrupted and has up to ``grace`` seconds to write files and run exit handlers.
        The replies to a running request are ended first, so that their reader does not see the interrupt.
        """
        self.stopped = True
        if self._replies is not None:
            self._replies.stop()
        if grace and not self.ended.is_set():
            self.interrupt()
            control = self._connected("control", zmq.DEALER)
            try:
                await control.send_multipart(
                    self._endpoint.pack("shutdown_request", {"restart": False}, self._next_id())
                )
                async with asyncio.timeout(grace):
                    await self._process.ended.wait()
            except TimeoutError:
                pass
            finally:
                control.close(linger=0)
        self._process.signal(SIGKILL)
        await self.ended.wait()

    def _connected(self, channel: str, kind: int) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MILLISECONDS)
        if kind == zmq.SUB:
            socket.setsockopt(zmq.RCVHWM, MESSAGES_IN_FLIGHT if self.spec.output_blocks else 0)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(self._endpoint.address(channel))
        return socket

    def _next_id(self) -> str:
        return f"{self._endpoint.session}-{next(self._request_numbers)}"

    def _send(self, kind: str, content: dict[str, Any], request_id: str) -> None:
        # Not awaited: the socket's queue always has room for a request, even before the kernel listens.
        self._shell.send_multipart(self._endpoint.pack(kind, content, request_id))

    @contextmanager
    def _request(self, kind: str, content: dict[str, Any]) -> Iterator[Replies]:
        if self.stopped or self._process.ended.is_set():
            raise KernelEndedError("the kernel has ended")
        request_id = self._next_id()
        replies = self._replies = Replies(request_id)
        self._send(kind, content, request_id)
        try:
            yield replies
        finally:
            self._replies = None
            replies.discard()

    async def _answers(self) -> bool:
        """Send a request, and return True if answers come on the channels shell and iopub."""
        with self._request("kernel_info_request", {}) as replies:
            while (await replies.next()).kind != "kernel_info_reply":
                pass
            # That answer does not prove that output arrives: the subscription to iopub takes effect some time after the
            # connection, and earlier output is lost.
            try:
                async with asyncio.timeout(RECONNECT_MILLISECONDS / 1000 * 4):
                    while (await replies.next()).content.get("execution_state") != "idle":
                        pass
            except TimeoutError:
                return False
        return True

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        try:
            while True:
                await self._hand_over(self._endpoint.unpack(await socket.recv_multipart()))
        except UNREADABLE:
            self._process.signal(SIGKILL)

    async def _hand_over(self, message: Message) -> None:
        replies = self._replies
        if self.stopped or replies is None or message.parent not in replies.request_ids:
            return
        if self.spec.output_blocks or not replies.full:
            await replies.put(message)
            return
        # This kernel would drop messages that nobody reads in time, even the end of the request. So it is stopped.
        self._process.signal(SIGSTOP)
        try:
            await replies.put(message)
            await replies.drained()
        finally:
            self._process.signal(SIGCONT)

    def _on_process_end(self) -> None:
        self._ending = asyncio.create_task(self._end())
        self._when_ended()

    async def _end(self) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        if not self.stopped:
            await self._read_last_output()
        self._shell.close(linger=0)
        self._iopub.close(linger=0)
        self._endpoint.remove_files()
        self.ended.set()

    async def _read_last_output(self) -> None:
        # Output that the process published before its end is still on the way.
        with suppress(*UNREADABLE):
            while await self._iopub.poll(LAST_OUTPUT_MILLISECONDS):
                await self._hand_over(self._endpoint.unpack(await self._iopub.recv_multipart()))
        if self._replies is not None:
            await self._replies.put(None)


def _execute_content(code: str, silent: bool) -> dict[str, Any]:
    return {
        "code": code,
        "silent": silent,
        "store_history": not silent,
        "user_expressions": {},
        "allow_stdin": False,
        # A kernel that stops on errors aborts requests that arrive right after an error. Here a request is sent only
        # after the end of the request before, so there is nothing to abort.
        "stop_on_error": False,
    }
