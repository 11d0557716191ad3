"""Failures that no handler foresaw, turned into errors that the client gets."""

from __future__ import annotations

import asyncio
import logging

from .call import Call
from .errors import Code, ConnectError

_log = logging.getLogger(__name__)


def as_connect_error(error: Exception, call: Call) -> ConnectError:
    """The error to answer with. What is neither foreseen nor the call's deadline is logged as a bug."""
    if isinstance(error, ConnectError):
        return error
    passed = call.deadline is not None and asyncio.get_running_loop().time() >= call.deadline
    if isinstance(error, TimeoutError) and passed:
        return ConnectError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    _log.error("a Connect handler failed", exc_info=error)
    return ConnectError(Code.INTERNAL, f"{type(error).__name__}: {error}")
