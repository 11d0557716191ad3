"""The lines of the answer of ``/execute``: one JSON object each (code interpreter, August 2026)."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

__all__ = [
    "ABORTED",
    "CONTEXT_RESTARTING",
    "END",
    "KEEPALIVE",
    "UNEXPECTED_END",
    "Line",
    "encoded",
    "error_line",
]

Line: TypeAlias = dict[str, Any]


def error_line(name: str, value: str, traceback: str = "") -> Line:
    """An ``error`` line; errors that no code raised have no traceback."""
    return {"type": "error", "name": name, "value": value, "traceback": traceback}


END: Line = {"type": "end_of_execution"}
KEEPALIVE: Line = {"type": "keepalive"}
CONTEXT_RESTARTING = error_line("ContextRestarting", "Context was restarted")
ABORTED = error_line("ExecutionAborted", "Execution was aborted")
UNEXPECTED_END = error_line(
    "UnexpectedEndOfExecution", "Connection to the execution was closed before the execution was finished"
)


def encoded(line: Line) -> bytes:
    """``line`` as it is sent.

    Everything outside ASCII is escaped: the SDK splits the stream at everything that ``str.splitlines`` takes
    for the end of a line, U+2028 and U+0085 among them, and text of a program may hold lone surrogates.
    """
    return json.dumps(line).encode("ascii") + b"\n"
