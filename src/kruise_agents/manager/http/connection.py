"""A client's HTTP/1.1 connection: uvicorn's protocol with a strict reader of heads and with timeouts.

:mod:`.request_head` reads each head. httptools gets a new head, made from what was read, with only the headers that
decide where the request ends. One request is served at a time. Bytes that a client sends between its request and the
end of the answer wait in a small buffer.
"""

from __future__ import annotations

import asyncio
import http
import json
import logging
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from ...serving import JoinedWrites
from ...serving.http_protocol import HttpProtocol
from ..gateway import client
from ..gateway.http import ResponseCutError
from ..gateway.tunnel import Stream
from ..request_log import RequestRecord, new_request_id
from .admission import set_idle
from .chunked_body import ChunkedBody
from .https import Https
from .request_head import MAX_HEAD_BYTES, HeadRefusedError, RequestHead, check_bytes, read_head

_LINGER_SECONDS = 5.0


class _Expected(Enum):
    HEAD = auto()
    BODY = auto()
    NOTHING = auto()
    """The request is complete, the answer is not."""


class GuardedHttpProtocol(HttpProtocol):
    """A client's connection with limits on time.

    ``head_seconds`` limits the wait for the first byte of a new connection, a TLS handshake, the time in which a head
    arrives, and, if an answer ends before the request's body, the time in which the rest of the body arrives.
    ``stall_seconds`` limits how long the send buffer may stay full because the client does not read. A subclass that
    serves the method CONNECT sets ``connects`` and overrides ``_start_request``.
    """

    connects = False

    head_seconds = 60.0
    stall_seconds = 3600.0
    https: Https | None = None
    """The https side of the port, or None if the port speaks plain http only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._expected = _Expected.HEAD
        self._scheme_known = self.https is None
        self._head: RequestHead | None = None
        self._head_begun = False
        self._buffer = bytearray()
        self._feeding_head = False
        self._body_left: int | None = 0
        self._chunks = ChunkedBody()
        self._unread = 0
        self._ignoring = False
        self._deadline: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._when_left: Callable[[], None] | None = None

    # Hooks of asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._set_deadline(self.head_seconds, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ignoring = True
        self._cancel_deadline()
        self.resume_writing()
        super().connection_lost(exc)
        if self._when_left is not None:
            self._when_left()

    def data_received(self, data: bytes) -> None:
        if self._ignoring:
            return
        if self._expected is _Expected.NOTHING:
            self._buffer_early(data)
        elif self._expected is _Expected.HEAD:
            self._read_head(data)
        else:
            self._read_body(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # Hooks of the parser

    def on_message_begin(self) -> None:
        if not self._feeding_head:
            raise ValueError("httptools ends the chunked body of the request before too early")
        super().on_message_begin()
        assert self._head is not None
        self.headers += self._head.headers
        self.expect_100_continue = self._head.expects_continue

    def on_header(self, name: bytes, value: bytes) -> None:
        """Ignore headers and trailers that httptools has read. The headers of a request come from its head."""

    def on_headers_complete(self) -> None:
        client.attach(self, self.scope)  # type: ignore[arg-type]  # the scope is a dict
        super().on_headers_complete()  # starts a task, which runs later
        RequestRecord.begin(self.scope)
        if not self.parser.should_keep_alive():
            self._close_after_answer()
        # The target from the head, because the parser of URLs leaves out a lone question mark.
        assert self._head is not None
        path, mark, query = self._head.target.partition(b"?")
        self.scope["raw_path"], self.scope["query_string"] = path + mark * (not query), query
        self._expected = _Expected.BODY
        self._unread = 0

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._cancel_deadline()
        self._expected = _Expected.HEAD if self.cycle.response_complete else _Expected.NOTHING
        if self.cycle.keep_alive and not self.parser.should_keep_alive():
            self._answer_and_close()  # a trailer said "close", and the parser drops what follows

    # Hooks of uvicorn

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        set_idle(self.transport, True)
        if self._expected is _Expected.BODY:
            self._set_deadline(self.head_seconds, self.transport.close)
        elif self._expected is _Expected.NOTHING:
            self._expected = _Expected.HEAD
            self._read_early()

    def send_400_response(self, msg: str) -> None:
        assert self._head is not None
        if self._feeding_head:
            self._refuse(501, f"the method {self._head.method.decode()} is not served")
        elif self._expected is _Expected.BODY:
            self._refuse(400, _MALFORMED)
        else:
            self._answer_and_close()

    def _should_upgrade(self) -> bool:
        return False  # handshakes are requests like others, until the gateway takes the connection over

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing. uvicorn would log warnings about each handshake, although the gateway serves handshakes."""

    # What the gateway sees of the client

    @property
    def handshake(self) -> bool:
        return self._head is not None and self._head.handshake

    @property
    def complete(self) -> bool:
        return not self.cycle.more_body

    @property
    def left(self) -> bool:
        return self.cycle.disconnected

    def when_left(self, act: Callable[[], None] | None) -> None:
        self._when_left = act
        if act is not None and self.left:
            act()

    def take_over(self) -> Stream:
        if self._ignoring or self.transport.is_closing():
            raise ConnectionResetError("the client has left")
        self.cycle.disconnected = True
        return self._detach(bytes(self._buffer))

    def _detach(self, received: bytes) -> Stream:
        """Leave the connection to the returned stream, which begins with the bytes ``received``."""
        self._ignoring = True
        self._cancel_deadline()
        self.connections.discard(self)
        self.flow.resume_reading()
        assert isinstance(self.transport, JoinedWrites)
        self.transport.flush()
        return Stream.on(self.transport.inner, received)

    # The request itself

    def _read_head(self, data: bytes) -> None:
        if not self._scheme_known and self._leaves_http(data):
            return
        checked = len(self._buffer)
        self._buffer += data
        while self._buffer.startswith(b"\r\n"):  # RFC 9112, section 2.2
            del self._buffer[:2]
            checked = 0
        end = self._buffer.find(b"\r\n\r\n", max(checked - 3, 0)) + 4
        try:
            if end >= 4 and end <= MAX_HEAD_BYTES:
                self._start_request(
                    read_head(bytes(self._buffer[:end]), connects=self.connects), bytes(self._buffer[end:])
                )
                return
            check_bytes(self._buffer, checked)
        except HeadRefusedError as refused:
            self._refuse(refused.status, str(refused))
            return
        if len(self._buffer) > MAX_HEAD_BYTES:
            self._refuse(431 if b"\r\n" in self._buffer else 414, _TOO_LARGE)
        elif not self._head_begun:
            self._head_begun = True
            self._unset_keepalive_if_required()
            self._set_deadline(self.head_seconds, self._too_slow)

    def _leaves_http(self, data: bytes) -> bool:
        """Look at the first bytes of a connection. Return True if they are no request for this port."""
        assert self.https is not None
        self._scheme_known = True
        if self.https.begins(data):
            assert isinstance(self.transport, JoinedWrites)
            self._cancel_deadline()
            self.connections.discard(self)
            self.https.take_over(self.transport.inner, self, data, self.head_seconds)  # calls connection_made() again
        elif self.https.only:
            self._refuse(400, json.dumps({"code": 400, "message": _PLAIN}), "application/json")  # for the SDK
        else:
            return False
        return True

    def _start_request(self, head: RequestHead, rest: bytes) -> None:
        self._head_begun = False
        self._buffer.clear()
        self._cancel_deadline()
        set_idle(self.transport, False)
        self._head = head
        self._body_left = head.length
        self._chunks = ChunkedBody()
        self._feeding_head = True
        super().data_received(head.framing())
        self._feeding_head = False
        if self._expected is _Expected.HEAD and not self._ignoring:
            self._refuse(400, _MALFORMED)  # httptools has not accepted the head
        elif rest and not self._ignoring:
            self.data_received(rest)

    def _read_body(self, data: bytes) -> None:
        end = self._chunks.end_in(data) if self._body_left is None else self._body_left
        body, rest = (data, b"") if end is None else (data[:end], data[end:])
        if self._body_left is not None:
            self._body_left -= len(body)
        else:
            self._unread += len(body)
        super().data_received(body)
        if self._ignoring:
            return
        if self._unread > MAX_HEAD_BYTES:
            self._refuse(431, "what stands between or after the chunks of the request's body is too large")
        elif end == len(body) and self._expected is _Expected.BODY and not self._body_left:
            self._refuse(400, _MALFORMED)  # httptools sees no end of the body here
        elif rest:
            self.data_received(rest)

    def _buffer_early(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > MAX_HEAD_BYTES:
            self._answer_and_close()

    def _read_early(self) -> None:
        early = bytes(self._buffer)
        self._buffer.clear()
        if early:
            self.data_received(early)

    def _answer_and_close(self) -> None:
        """Make the current answer the last one, and drop what came after the request (RFC 9112, section 9.3.2)."""
        self._ignoring = True
        self._buffer.clear()
        self._close_after_answer()
        if self.cycle.response_complete:
            self.transport.close()

    def _close_after_answer(self) -> None:
        # uvicorn before 0.54 overlooks a "close" among other words, and does not tell the client that it will close.
        self.cycle.keep_alive = False
        self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]

    def _refuse(self, status: int, message: str, kind: str = "text/plain; charset=utf-8") -> None:
        self._ignoring = True
        self._buffer.clear()
        self._cancel_deadline()
        set_idle(self.transport, True)
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
            f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\ncontent-type: {kind}\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {record.id}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        self._linger()

    def _linger(self) -> None:
        """Half-close, and read on for some time, so that no reset discards the answer. With TLS, close at once."""
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self._set_deadline(_LINGER_SECONDS, self.transport.abort)

    def _too_slow(self) -> None:
        self._refuse(408, f"the request line and headers did not arrive within {self.head_seconds:g} seconds")

    def _set_deadline(self, seconds: float, act: Callable[[], None]) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(seconds, act)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def everyday_events(record: logging.LogRecord) -> bool:
    """Return False for log records of two everyday events, which uvicorn would log as an error and as a warning.

    The events: the response of a sandbox broke off in the middle; httptools refused a request.
    """
    cut = record.exc_info is not None and isinstance(record.exc_info[1], ResponseCutError)
    return not cut and record.msg != "Invalid HTTP request received."


_PLAIN = (
    "this port speaks https, and the request came as plain http: use https://, and in a program patch_e2b() in place "
    "of patch_e2b(False)"
)
_MALFORMED = "the chunks of the request's body are not well-formed"
_TOO_LARGE = f"the request line and headers are larger than {MAX_HEAD_BYTES} bytes together"
