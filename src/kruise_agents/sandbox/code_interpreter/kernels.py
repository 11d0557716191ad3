"""One kernel: its start, the requests it is sent, interrupts, and its end.

Messages are read all the time, so that the output of threads between two requests does not pile up, and handed
to the request that caused them; a slow reader of a request slows the kernel down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP
from typing import Any

import zmq
import zmq.asyncio

from .errors import KernelEndedError, KernelStartError
from .jupyter_messages import Endpoint, Message
from .languages import KernelSpec
from .late_output import LateOutput
from .process import KernelProcess

__all__ = ["Kernel", "Replies"]

START_SECONDS = 60.0
INTERRUPT_SECONDS = 1.0
"""How long the way to a kernel that is asked to interrupt stays open."""
RECONNECT_MILLISECONDS = 5
"""How often a socket tries to reach a kernel that does not listen yet; the default of 100 would delay it."""
MESSAGES_IN_FLIGHT = 16
"""How many messages may wait on this side; beyond that the kernel's output channel blocks."""
LAST_OUTPUT_MILLISECONDS = 20
"""How long the output channel of an ended process has to be silent to be taken as empty."""


class Replies:
    """The messages that one request causes."""

    def __init__(self, request_id: str) -> None:
        self.request_ids = {request_id}
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue(MESSAGES_IN_FLIGHT)

    async def next(self) -> Message:
        """The next message. Raises KernelEndedError when the kernel has ended and everything was read."""
        message = await self._queue.get()
        self._queue.task_done()
        if message is None:
            raise KernelEndedError("the kernel has ended")
        return message

    async def put(self, message: Message | None) -> None:
        """Hands over a message, None for the end of the kernel; waits while too many are unread."""
        await self._queue.put(message)

    @property
    def full(self) -> bool:
        """Whether ``put`` would wait."""
        return self._queue.full()

    async def drained(self) -> None:
        """Returns when everything was read."""
        await self._queue.join()

    def discard(self) -> None:
        """Drops what is unread, which also releases a reader that waits for room."""
        while not self._queue.empty():
            self._queue.get_nowait()
            self._queue.task_done()

    def cut(self) -> None:
        """Drops what is unread and ends: the kernel was stopped on purpose."""
        self.discard()
        self._queue.put_nowait(None)


class Kernel:
    """A running kernel. One request at a time; the caller sees to that."""

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
        """The environment that the kernel was last given, without the variables of single calls."""
        self.ended = asyncio.Event()
        """Set when the process is gone, its output was read and nothing of it is left."""
        self._process = process
        self._endpoint = endpoint
        self._context = context
        self._replies: Replies | None = None
        self._stopped = False
        self._interrupted = False
        self._request_numbers = count(1)
        self._shell = self._connected("shell", zmq.DEALER)
        self._iopub = self._connected("iopub", zmq.SUB)
        self._readers = [asyncio.create_task(self._read(socket)) for socket in (self._shell, self._iopub)]
        self._when_ended: Callable[[], None] = lambda: None
        self._ending: asyncio.Task[None] | None = None
        process.on_end(self._on_process_end)

    @property
    def pid(self) -> int:
        """The process id of the kernel."""
        return self._process.pid

    def on_end(self, callback: Callable[[], None]) -> None:
        """Calls ``callback`` as soon as the process has ended, for whatever reason."""
        self._when_ended = callback
        if self._process.ended.is_set():
            callback()

    async def wait_until_ready(self) -> None:
        """Returns when requests are answered and their output arrives. Raises KernelStartError."""
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
        last_words = self._process.last_words()
        await self.shutdown()
        raise KernelStartError(f"the kernel {problem}" + (f": {last_words}" if last_words else ""))

    @contextmanager
    def execute(self, code: str, *, silent: bool = False) -> Iterator[Replies]:
        """Sends ``code`` and gives the messages that it causes.

        Silent code raises no counter, displays nothing and stays out of the history.
        """
        with self._request("execute_request", _order(code, silent)) as replies:
            yield replies

    def mark(self, replies: Replies) -> LateOutput | None:
        """Has the end of the output of a request marked that is done; None where it has come already."""
        if self.spec.mark is None:
            return None
        request_id = self._next_id()
        late = LateOutput(request_id)
        replies.request_ids.add(request_id)
        content = _order(self.spec.mark(late.mark), silent=True)
        self._shell.send_multipart(self._endpoint.pack("execute_request", content, request_id))
        return late

    async def execute_silently(self, code: str) -> Message:
        """Runs ``code`` unseen and returns the kernel's reply. Raises KernelEndedError."""
        with self.execute(code, silent=True) as replies:
            reply: Message | None = None
            idle = False
            while reply is None or not idle:
                message = await replies.next()
                if message.kind == "execute_reply":
                    reply = message
                idle = idle or message.content.get("execution_state") == "idle"
            return reply

    def interrupt(self) -> None:
        """Interrupts what is running; an idle kernel ignores it.

        Some kernels cannot be interrupted everywhere: asked a second time for the same request, they are killed, so
        that the context becomes usable again.
        """
        if self._interrupted and self.spec.replaced_when_deaf:
            self._process.signal(SIGKILL)
        elif self.spec.interrupt == "signal":
            self._process.signal(SIGINT)
        else:
            control = self._connected("control", zmq.DEALER)
            control.send_multipart(self._pack("interrupt_request", {}))
            asyncio.get_running_loop().call_later(INTERRUPT_SECONDS, control.close, 0)
        self._interrupted = True

    async def shutdown(self, grace: float = 0.0) -> None:
        """Ends the kernel and waits until nothing of it is left.

        With ``grace``, it has so many seconds to interrupt its work and to end by itself, so that open files
        are written and exit handlers run. A request that runs ends at once for whoever waits for it: what the kernel
        answers to the interrupt is not the reason.
        """
        self._stopped = True
        if self._replies is not None:
            self._replies.cut()
        if grace and not self.ended.is_set():
            self.interrupt()
            control = self._connected("control", zmq.DEALER)
            try:
                await control.send_multipart(self._pack("shutdown_request", {"restart": False}))
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

    def _pack(self, kind: str, content: dict[str, Any]) -> list[bytes]:
        return self._endpoint.pack(kind, content, self._next_id())

    @contextmanager
    def _request(self, kind: str, content: dict[str, Any]) -> Iterator[Replies]:
        if self._stopped or self._process.ended.is_set():
            raise KernelEndedError("the kernel has ended")
        request_id = self._next_id()
        replies = self._replies = Replies(request_id)
        self._interrupted = False
        # Not awaited: a queue has room for one request at any time, also before the kernel listens.
        self._shell.send_multipart(self._endpoint.pack(kind, content, request_id))
        try:
            yield replies
        finally:
            self._replies = None
            replies.discard()

    async def _answers(self) -> bool:
        """Whether a request was answered on both channels.

        A subscription takes effect some time after the connection, and what was published before is lost: a
        reply alone does not prove that the next output will arrive.
        """
        with self._request("kernel_info_request", {}) as replies:
            while (await replies.next()).kind != "kernel_info_reply":
                pass
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
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # Code that forges messages can do this. A kernel that cannot be understood ends like a dead one.
            self._process.signal(SIGKILL)

    async def _hand_over(self, message: Message) -> None:
        replies = self._replies
        if self._stopped or replies is None or message.parent not in replies.request_ids:
            return
        if self.spec.output_blocks or not replies.full:
            await replies.put(message)
            return
        # It would drop what nobody reads in time, the end of the request as well, so it has to stand still.
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
        if not self._stopped:
            await self._read_last_output()
        self._shell.close(linger=0)
        self._iopub.close(linger=0)
        self._endpoint.remove_files()
        self.ended.set()

    async def _read_last_output(self) -> None:
        # What the process published before its end is still on the way.
        while await self._iopub.poll(LAST_OUTPUT_MILLISECONDS):
            await self._hand_over(self._endpoint.unpack(await self._iopub.recv_multipart()))
        if self._replies is not None:
            await self._replies.put(None)


def _order(code: str, silent: bool) -> dict[str, Any]:
    return {
        "code": code,
        "silent": silent,
        "store_history": not silent,
        "user_expressions": {},
        "allow_stdin": False,
        # A kernel that stops on errors aborts what arrives right after one. There is never a second request in its
        # queue that would have to be aborted.
        "stop_on_error": False,
    }
