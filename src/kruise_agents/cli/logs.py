"""The log of ``serve`` on standard error, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from ..manager.request_log import current_request_id
from ..manager.settings import Declaration, Option

_LEVELS = ("debug", "info", "warning", "error")
_FORMATS = ("text", "json")
LOG_OPTIONS = (
    Declaration(
        "log_level",
        Option(
            "--log-level",
            "Detail of the log on standard error. 'info' adds a line for each request.",
            choices=_LEVELS,
        ),
        str,
        "warning",
    ),
    Declaration(
        "log_format",
        Option("--log-format", "Format of the log. 'json' writes one JSON object a line.", choices=_FORMATS),
        str,
        "text",
    ),
)
_to_json = json.JSONEncoder(default=str).encode
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def start_logging(level: str, log_format: str) -> None:
    """Send log records of ``level`` and above to standard error, but none of uvicorn's below ``warning``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # uvicorn also reports normal events under this name, such as its start.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, getattr(logging, level.upper())))


def announce(line: str, log_format: str) -> None:
    """Write a line for the operator to standard error, whatever the level of the log is."""
    if log_format == "json":
        line = JsonFormatter().format(logging.LogRecord(__name__, logging.INFO, "", 0, line, (), None))
    print(line, file=sys.stderr, flush=True)


class JsonFormatter(logging.Formatter):
    """Formatter that writes a record as one line with a JSON object.

    The record of a request has the attribute ``fields``, a dictionary, whose items become members of the object.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().strip(),
        }
        if (request_id := current_request_id()) is not None:
            line["request_id"] = request_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _to_json(line)
