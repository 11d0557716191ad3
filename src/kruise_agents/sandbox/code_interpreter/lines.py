"""The lines of an answer to ``/execute``, in JSON, as E2B's code interpreter sends them (August 2026)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

Line: TypeAlias = dict[str, Any]

_FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


def error_line(name: str, value: str, traceback: str = "") -> Line:
    """Return an ``error`` line. ``traceback`` is empty for most errors that the user's code did not raise."""
    return {"type": "error", "name": name, "value": value, "traceback": traceback}


END: Line = {"type": "end_of_execution"}
KEEPALIVE: Line = {"type": "keepalive"}
CONTEXT_RESTARTING = error_line("ContextRestarting", "Context was restarted")
CONTEXT_WAS_REPLACED = error_line(
    "ContextRestarting",
    "Context was restarted",
    "The context has a new kernel. Code of an earlier call, whose client had left, did not stop in time or ended the "
    "kernel. Variables are lost, and the code of this call did not run. Send the call again.",
)
ABORTED = error_line("ExecutionAborted", "Execution was aborted")
UNEXPECTED_END = error_line(
    "UnexpectedEndOfExecution", "Connection to the execution was closed before the execution was finished"
)


def result_fields(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a ``result`` line for a MIME bundle. MIME types without a field go into ``extra``."""
    fields = {_FIELDS[kind]: value for kind, value in bundle.items() if kind in _FIELDS}
    if "text" in fields:
        fields["text"] = _unquoted(fields["text"])
    return {**fields, "extra": {kind: value for kind, value in bundle.items() if kind not in _FIELDS}}


def encoded(line: Line) -> bytes:
    """Return a line as bytes, with everything outside ASCII escaped, and null in place of NaN and infinity."""
    # The Python SDK splits the stream at every line end that str.splitlines knows, such as U+2028 and U+0085. The
    # output of a program may also contain lone surrogates, which UTF-8 cannot encode.
    try:
        text = json.dumps(line, allow_nan=False)
    except ValueError:  # a kernel has sent what is no JSON for most clients
        text = json.dumps(json.loads(json.dumps(line), parse_constant=lambda _: None))
    return text.encode("ascii") + b"\n"


def _unquoted(text: Any) -> Any:
    if isinstance(text, str) and len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text
