"""One kernel: its start, the requests it is sent, interrupts, and its end.

Messages are read all the time, so that the output of threads between two requests does not pile up, and handed
to the request that caused them; a slow reader of a request slows the kernel down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from signal import SIGINT, SIGKILL
from typing import Any

import zmq
import zmq.asyncio

from .errors import KernelEndedError, KernelStartError
from .process import KernelProcess
from .wire import Endpoint, Message, unpack

__all__ = ["Kernel", "Replies"]

START_SECONDS = 60.0
RECONNECT_MILLISECONDS = 5
"""How often a socket tries to reach a kernel that does not listen yet; the default of 100 would delay it."""
MESSAGES_IN_FLIGHT = 16
"""How many messages may wait on this side; beyond that the kernel's output channel blocks."""
LAST_OUTPUT_MILLISECONDS = 20
"""How long the output channel of an ended process has to be silent to be taken as empty."""


class Replies:
    """The messages that one request causes."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue(MESSAGES_IN_FLIGHT)

    async def next(self) -> Message:
        """The next message. Raises KernelEndedError when the kernel has ended and everything was read."""
        message = await self._queue.get()
        if message is None:
            raise KernelEndedError("the kernel has ended")
        return message

    async def put(self, message: Message | None) -> None:
        """Hands over a message, None for the end of the kernel; waits while too many are unread."""
        await self._queue.put(message)

    def discard(self) -> None:
        """Drops what is unread, which also releases a reader that waits for room."""
        while not self._queue.empty():
            self._queue.get_nowait()

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
        environment: Mapping[str, str],
    ) -> None:
        self.environment = environment
        """The environment that the kernel was last given, without the variables of single calls."""
        self.ended = asyncio.Event()
        """Set when the process is gone, its output was read and nothing of it is left."""
        self._process = process
        self._endpoint = endpoint
        self._context = context
        self._replies: Replies | None = None
        self._stopped = False
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
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            # A kernel that stops on errors aborts what arrives right after one. There is never a second
            # request in its queue that would have to be aborted.
            "stop_on_error": False,
        }
        with self._request("execute_request", content) as replies:
            yield replies

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
        """Interrupts what is running; an idle kernel ignores it."""
        self._process.signal(SIGINT)

    async def shutdown(self, grace: float = 0.0) -> None:
        """Ends the kernel and waits until nothing of it is left.

        With ``grace``, it has so many seconds to interrupt its work and to end by itself, so that open files
        are written and exit handlers run.
        """
        if grace and not self.ended.is_set():
            self.interrupt()
            control = self._connected("control", zmq.DEALER)
            try:
                await control.send_multipart(self._pack("shutdown_request", {"restart": False})[1])
                async with asyncio.timeout(grace):
                    await self._process.ended.wait()
            except TimeoutError:
                pass
            finally:
                control.close(linger=0)
        self._stopped = True
        self._process.signal(SIGKILL)
        if self._replies is not None:
            self._replies.cut()
        await self.ended.wait()

    def _connected(self, channel: str, kind: int) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MILLISECONDS)
        if kind == zmq.SUB:
            socket.setsockopt(zmq.RCVHWM, MESSAGES_IN_FLIGHT)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(self._endpoint.address(channel))
        return socket

    def _pack(self, kind: str, content: dict[str, Any]) -> tuple[str, list[bytes]]:
        request_id = f"{self._endpoint.session}-{next(self._request_numbers)}"
        return request_id, self._endpoint.pack(kind, content, request_id)

    @contextmanager
    def _request(self, kind: str, content: dict[str, Any]) -> Iterator[Replies]:
        if self._process.ended.is_set():
            raise KernelEndedError("the kernel has ended")
        request_id, frames = self._pack(kind, content)
        replies = self._replies = Replies(request_id)
        # Not awaited: a queue has room for one request at any time, also before the kernel listens.
        self._shell.send_multipart(frames)
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
                await self._hand_over(unpack(await socket.recv_multipart()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # Code that forges messages can do this. A kernel that cannot be understood ends like a dead one.
            self._process.signal(SIGKILL)

    async def _hand_over(self, message: Message) -> None:
        replies = self._replies
        if replies is not None and message.parent == replies.request_id:
            await replies.put(message)

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
            await self._hand_over(unpack(await self._iopub.recv_multipart()))
        if self._replies is not None:
            await self._replies.put(None)
