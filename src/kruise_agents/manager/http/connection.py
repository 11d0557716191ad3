"""uvicorn's HTTP/1.1 protocol behind a strict door, with an end to all waiting that serves nobody.

Heads are read by :mod:`.request_head`, and httptools sees what was understood. One request is served at a time: what a
client sends before it has the answer waits, up to a limit, unread.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..gateway.http import ResponseCutError
from ..gateway.tunnel import TAKE_OVER, Stream
from ..request_log import RequestRecord, new_request_id
from .request_head import MAX_HEAD_BYTES, HeadRefusedError, RequestHead, check_bytes, read_head

_LINGER_SECONDS = 5.0


class _Expected(Enum):
    HEAD = auto()
    BODY = auto()
    NOTHING = auto()
    """The request is complete, its answer is not."""


class GuardedHttpProtocol(HttpToolsProtocol):
    """One connection of a client.

    ``head_seconds`` is how long a head may take, a new connection may stay silent, and the rest of a body may take that
    nobody waits for any more. ``stall_seconds`` is how long a client may take nothing of an answer.
    """

    head_seconds = 60.0
    stall_seconds = 3600.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._expected = _Expected.HEAD
        self._head: RequestHead | None = None
        self._head_begun = False
        self._waiting = bytearray()
        self._body_left: int | None = 0
        self._unread = 0
        self._deaf = False
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        """Hook of asyncio."""
        super().connection_made(transport)
        self._expire(self.head_seconds, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hook of asyncio."""
        self._deaf = True
        self._never_mind()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hook of asyncio."""
        if self._deaf:
            return
        if self._expected is _Expected.NOTHING:
            self._hold(data)
        elif self._expected is _Expected.HEAD:
            self._take_head(data)
        else:
            self._take_body(data)

    def pause_writing(self) -> None:
        """Hook of asyncio: the client takes less than it is sent."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Hook of asyncio."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def on_message_begin(self) -> None:
        """Hook of the parser."""
        if self._expected is not _Expected.HEAD:
            raise ValueError("the next request has begun")  # known only now: the body before it was chunked
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Hook of the parser; what comes after a chunked body is no header of the request."""
        if self._expected is _Expected.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hook of the parser."""
        assert self._head is not None
        if self._head.handshake:
            self.scope["extensions"] = {TAKE_OVER: self._take_over}  # type: ignore[dict-item]  # an extension may be anything
        super().on_headers_complete()  # starts a task, which runs later
        RequestRecord.begin(self.scope)
        if not self.parser.should_keep_alive():
            self._close_after_answer()
        # As it was sent; the parser of URLs leaves out a lone question mark.
        path, mark, query = self._head.target.partition(b"?")
        self.scope["raw_path"], self.scope["query_string"] = path + mark * (not query), query
        self._expected = _Expected.BODY
        self._unread = 0

    def on_body(self, body: bytes) -> None:
        """Hook of the parser."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Hook of the parser."""
        super().on_message_complete()
        self._never_mind()
        self._expected = _Expected.HEAD if self.cycle.response_complete else _Expected.NOTHING

    def on_response_complete(self) -> None:
        """Hook of uvicorn."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._expected is _Expected.BODY:
            self._expire(self.head_seconds, self.transport.close)
        elif self._expected is _Expected.NOTHING:
            self._expected = _Expected.HEAD
            self._release()

    def send_400_response(self, msg: str) -> None:
        """Hook of uvicorn: the parser refused something."""
        assert self._head is not None
        if self._expected is _Expected.HEAD:
            self._refuse(501, f"the method {self._head.method.decode()} is not served")
        elif self._expected is _Expected.BODY:
            self._refuse(400, "the chunks of the request's body are not well-formed")
        else:
            self._answer_and_close()

    def _should_upgrade(self) -> bool:
        """Hook of uvicorn: handshakes are requests like others, until somebody takes the connection over."""
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """Hook of uvicorn, which would say of every handshake that a library is missing."""

    def _take_head(self, data: bytes) -> None:
        if not self._head_begun:
            self._head_begun = True
            self._unset_keepalive_if_required()
            self._expire(self.head_seconds, self._too_slow)
        checked = len(self._waiting)
        self._waiting += data
        while self._waiting.startswith(b"\r\n"):  # RFC 9112, section 2.2
            del self._waiting[:2]
            checked = 0
        end = self._waiting.find(b"\r\n\r\n", max(checked - 3, 0)) + 4
        try:
            if end >= 4 and end <= MAX_HEAD_BYTES:
                self._begin(read_head(bytes(self._waiting[:end])), bytes(self._waiting[end:]))
                return
            check_bytes(self._waiting, checked)
        except HeadRefusedError as refused:
            self._refuse(refused.status, str(refused))
            return
        if len(self._waiting) > MAX_HEAD_BYTES:
            self._refuse(431 if b"\r\n" in self._waiting else 414, _TOO_LARGE)

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        self._head_begun = False
        self._waiting.clear()
        self._never_mind()
        self._head = head
        self._body_left = head.length
        super().data_received(head.written())
        if rest and not self._deaf:
            self.data_received(rest)

    def _take_body(self, data: bytes) -> None:
        if self._body_left is None:
            self._unread += len(data)
            super().data_received(data)
            if self._unread > MAX_HEAD_BYTES:
                self._refuse(431, "what stands between or after the chunks of the request's body is too large")
            return
        body, rest = data[: self._body_left], data[self._body_left :]
        self._body_left -= len(body)
        super().data_received(body)
        if rest and not self._deaf:
            self.data_received(rest)

    def _hold(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) > MAX_HEAD_BYTES:
            self._answer_and_close()

    def _release(self) -> None:
        held = bytes(self._waiting)
        self._waiting.clear()
        if held:
            self.data_received(held)

    def _answer_and_close(self) -> None:
        """What came behind the request is lost, so this is the last answer (RFC 9112, section 9.3.2)."""
        self._deaf = True
        self._waiting.clear()
        self._close_after_answer()
        if self.cycle.response_complete:
            self.transport.close()

    def _close_after_answer(self) -> None:
        # Releases of uvicorn before 0.54 overlook a "close" among other words, and do not announce the end.
        self.cycle.keep_alive = False
        self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]

    def _take_over(self) -> Stream:
        """Give the connection to whoever serves the current request; nothing here acts on it any more.

        Raises:
            ConnectionResetError: the client has left, or sent so much before the answer that not all of it was kept.
        """
        if self._deaf or self.transport.is_closing():
            raise ConnectionResetError("the client has left")
        self._deaf = True
        self._never_mind()
        self.connections.discard(self)
        self.cycle.disconnected = True
        self.flow.resume_reading()
        return Stream.on(self.transport, bytes(self._waiting))

    def _refuse(self, status: int, message: str) -> None:
        """Answer with a text and close; cut the connection where another answer has begun."""
        self._deaf = True
        self._waiting.clear()
        self._never_mind()
        if self._expected is _Expected.HEAD:
            record = RequestRecord(new_request_id(), method="-", status=status)
            record.write()
        else:
            self.cycle.disconnected = True
            self.cycle.waiting_for_100_continue = False
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.abort()
                return
            record = RequestRecord.of(self.scope)
            record.status = status
        body = message.encode()
        self.transport.write(
            f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {record.id}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        self._linger()

    def _linger(self) -> None:
        """Close, but let a client that still sends read the answer first: a reset would take it away."""
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self._expire(_LINGER_SECONDS, self.transport.abort)

    def _too_slow(self) -> None:
        self._refuse(408, f"the request line and headers did not arrive within {self.head_seconds:g} seconds")

    def _expire(self, seconds: float, act: Callable[[], None]) -> None:
        self._never_mind()
        self._deadline = self.loop.call_later(seconds, act)

    def _never_mind(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def everyday_events(record: logging.LogRecord) -> bool:
    """Keep two everyday events, which uvicorn logs as an error and a warning, out of the log.

    They are a sandbox that went away in the middle of a response, and a request that was refused.
    """
    cut = record.exc_info is not None and isinstance(record.exc_info[1], ResponseCutError)
    return not cut and record.msg != "Invalid HTTP request received."


_TOO_LARGE = f"the request line and headers are larger than {MAX_HEAD_BYTES} bytes together"
