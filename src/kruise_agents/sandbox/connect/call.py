"""Headers and deadline of a call, and the error that a failed call is answered with."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass

from starlette.datastructures import Headers

from ...protocol.fields import FieldError
from .errors import Code, ConnectError
from .message import as_invalid_argument

TIMEOUT_HEADER = "connect-timeout-ms"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """The headers and the deadline of a call."""

    headers: Headers
    deadline: float | None
    """Time of the event loop's clock at which the call ends with ``deadline_exceeded``; None: never."""


def parse_timeout(value: str | None) -> float | None:
    """Return the seconds that a ``Connect-Timeout-Ms`` header allows, or None for no limit (no header, or value 0).

    Decimals (``2500.0``) are accepted, because e2b 2.8.0 sends the caller's seconds times 1000. A negative or
    infinite value, or a value that is no number, raises ConnectError ``invalid_argument``.
    """
    if value is None:
        return None
    try:
        milliseconds = float(value)
    except ValueError:
        milliseconds = math.nan
    if not (0 <= milliseconds < math.inf):
        raise ConnectError(
            Code.INVALID_ARGUMENT, f"protocol error: invalid Connect-Timeout-Ms {value!r}: not milliseconds"
        )
    return milliseconds / 1000 if milliseconds else None


def as_connect_error(error: Exception, call: Call) -> ConnectError:
    """Return the ConnectError to answer with. An unexpected error is logged and becomes ``internal``."""
    if isinstance(error, ConnectError):
        return error
    if isinstance(error, FieldError):
        return as_invalid_argument(error)
    passed = call.deadline is not None and asyncio.get_running_loop().time() >= call.deadline
    if isinstance(error, TimeoutError) and passed:
        return ConnectError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    _log.error("a Connect handler failed", exc_info=error)
    return ConnectError(Code.INTERNAL, f"{type(error).__name__}: {error}")
