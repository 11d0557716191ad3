"""The log line of each request, and the request ID that the line shares with the answer.

A client may choose the ID with the header ``X-Request-Id``. The ID stands in the log line, in the headers of the answer
and, as in OpenKruise's manager, in the JSON bodies of errors. The gateway forwards the ID to the program in the
sandbox, as Envoy does.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

HEADER = b"x-request-id"
NO_ROUTE = "-"
CLIENT_LEFT = 499
"""The status that is logged if the client left before the answer began. nginx logs the same status."""

_ACCEPTED = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_SANDBOX_ID = re.compile(r"i[a-z0-9]{20}")
_current: ContextVar[RequestRecord | None] = ContextVar("kruise_agents_request", default=None)

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class RequestRecord:
    """The facts about one request that are logged when the request ends.

    ``route`` is a path template such as ``/sandboxes/{sandbox_id}``, or ``:<port>`` for a port of a sandbox. ``door``
    names the part that answered: ``api``, ``gateway`` or ``manager``. Beyond these fields, nothing of the path, query,
    headers and body is kept, because any of these may hold secrets.
    """

    id: str
    method: str
    door: str = "manager"
    route: str = NO_ROUTE
    status: int = 0
    sandbox_id: str | None = None
    key_id: str | None = None
    open: bool = True
    _started: float = field(default_factory=time.perf_counter)

    @classmethod
    def begin(cls, scope: Any) -> RequestRecord:
        request_id = _chosen_id(scope["headers"])
        if request_id is None:
            request_id = new_request_id()
            scope["headers"][:] = with_request_id(scope["headers"], request_id)
        record = cls(request_id, scope["method"])
        scope["state"]["request"] = record
        return record

    @classmethod
    def of(cls, scope: Any) -> RequestRecord:
        record: RequestRecord = scope["state"]["request"]
        return record

    def make_current(self) -> None:
        _current.set(self)

    def answered(self, message: Any) -> Any:
        """Return ``message``. If ``message`` starts the answer, record the status and add the request ID header."""
        if message["type"] != "http.response.start":
            return message
        self.status = self.status or message["status"]
        return {**message, "headers": with_request_id(message.get("headers", ()), self.id)}

    @property
    def logged(self) -> bool:
        return logger.isEnabledFor(logging.INFO)

    def write(self) -> None:
        if not self.logged:
            return
        milliseconds = round((time.perf_counter() - self._started) * 1000, 1)
        sandbox_id = self.sandbox_id if self.sandbox_id and _SANDBOX_ID.fullmatch(self.sandbox_id) else None
        status = self.status or CLIENT_LEFT
        fields = {
            "method": self.method,
            "route": self.route,
            "status": status,
            "ms": milliseconds,
            "sandbox": sandbox_id,
            "key": self.key_id,
            "request_id": self.id,
        }
        logger.info(
            "%s %s %d %.1f ms sandbox=%s key=%s request=%s",
            self.method,
            self.route,
            status,
            milliseconds,
            sandbox_id or "-",
            self.key_id or "-",
            self.id,
            extra={"fields": fields},
        )


def current_request_id() -> str | None:
    """Return the ID of the request that the current task serves; None outside of requests."""
    record = _current.get()
    # Tasks that a request has started, such as timers, inherit the request's context and may outlive the request.
    return record.id if record is not None and record.open else None


def new_request_id() -> str:
    """Return a new request ID in the form of OpenKruise's manager: 32 lower-case hexadecimal digits."""
    return secrets.token_hex(16)


def with_request_id(headers: Any, request_id: str) -> list[tuple[bytes, bytes]]:
    """Return ``headers`` with this request ID in place of any other."""
    return [*(pair for pair in headers if pair[0].lower() != HEADER), (HEADER, request_id.encode())]


def _chosen_id(headers: Any) -> str | None:
    """Return the client's request ID, or None if the ID is missing, repeated, or could forge or flood the log."""
    sent = [value for name, value in headers if name == HEADER]
    return sent[0].decode() if len(sent) == 1 and _ACCEPTED.fullmatch(sent[0]) else None
