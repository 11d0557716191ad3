"""The log of the program in a sandbox, with the time, level and logger of each line. User code can write to it too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ...protocol.control import LOG_LINE
from ..runtime.limits.log_file import last_bytes

LEVELS = ("debug", "info", "warn", "error")

_FIRST = ("info", "sandbox", "")
_NAMES = {"DEBUG": "debug", "INFO": "info", "WARNING": "warn", "ERROR": "error", "CRITICAL": "error"}


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the log."""

    at: datetime
    level: str  # one of LEVELS
    logger: str
    text: str


def read_log(path: Path, began: datetime) -> list[LogLine]:
    """Return the last lines of a log, in the order in which they were written; an empty list if there is no log.

    A line that does not begin with a time, a known level and a logger gets those of the line before. If no line before
    has them, the level is ``info``, the logger is ``sandbox``, and the time is the earlier of ``began`` and the first
    timestamp.
    """
    try:
        content = last_bytes(path)
    except FileNotFoundError:
        return []
    return list(_lines(content.decode(errors="replace"), began))


def _lines(content: str, began: datetime) -> Iterator[LogLine]:
    parsed = [_parsed(line) for line in content.split("\n") if line]
    last = LogLine(min(next(((line.at, began) for line in parsed if isinstance(line, LogLine)), (began,))), *_FIRST)
    for line in parsed:
        last = line if isinstance(line, LogLine) else replace(last, text=line)
        yield last


def _parsed(line: str) -> LogLine | str:
    found = re.fullmatch(LOG_LINE, line, re.DOTALL)
    if found is None or found["level"] not in _NAMES:
        return line
    try:
        at = datetime.strptime(found["time"], "%Y-%m-%d %H:%M:%S,%f").replace(tzinfo=UTC)
    except ValueError:
        return line  # the digits are no time
    return LogLine(at, _NAMES[found["level"]], found["logger"], found["message"])


def select(
    lines: Sequence[LogLine], *, cursor: datetime | None, backward: bool, level: str, search: str
) -> Iterator[LogLine]:
    """Yield the lines of at least ``level`` whose logger or text contains ``search``, from the time ``cursor`` on.

    With ``backward``, yield the lines up to the time ``cursor``, the last line first. ``cursor`` None: all times.
    """
    for line in reversed(lines) if backward else lines:
        in_time = cursor is None or (line.at <= cursor if backward else line.at >= cursor)
        if in_time and LEVELS.index(line.level) >= LEVELS.index(level) and search in f"{line.logger}: {line.text}":
            yield line
