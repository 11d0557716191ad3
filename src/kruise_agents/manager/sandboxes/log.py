"""The lines that a sandbox's own program wrote, with the time and level of each. Code in it can write there too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..runtime.limits.log_file import last_bytes

LEVELS = ("debug", "info", "warn", "error")

_LINE = re.compile(r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (?P<level>[A-Z]+) (?P<rest>.*)", re.DOTALL)
_NAMES = {"DEBUG": "debug", "INFO": "info", "WARNING": "warn", "ERROR": "error", "CRITICAL": "error"}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line."""

    at: datetime
    level: str
    """One of :data:`LEVELS`."""
    text: str


def read_log(path: Path, began: datetime) -> list[LogLine]:
    """The last lines of a log, oldest first.

    Parameters:
        began: the time of lines before the first one that has a time, unless that is earlier; others without one have
            that of the line before.
    """
    try:
        content = last_bytes(path)
    except FileNotFoundError:
        return []
    return list(_lines(content.decode(errors="replace"), began))


def _lines(content: str, began: datetime) -> Iterator[LogLine]:
    parsed = [_parsed(line) for line in content.split("\n") if line]
    at, level = min(next(((at, began) for at, _, _ in parsed if at is not None), (began,))), "info"
    for its_time, its_level, text in parsed:
        at, level = its_time or at, its_level or level
        yield LogLine(at, level, text)


def _parsed(line: str) -> tuple[datetime | None, str | None, str]:
    found = _LINE.fullmatch(line)
    if found is None or found["level"] not in _NAMES:
        return None, None, line
    try:
        at = datetime.strptime(found["time"], "%Y-%m-%d %H:%M:%S,%f").replace(tzinfo=UTC)
    except ValueError:
        return None, None, line  # digits that are no time
    return at, _NAMES[found["level"]], found["rest"]


def select(
    lines: Sequence[LogLine], *, cursor: datetime | None, backward: bool, level: str, search: str
) -> Iterator[LogLine]:
    """The lines of at least a level with a text in them: from a time on, or backward from it to the first one."""
    for line in reversed(lines) if backward else lines:
        in_time = cursor is None or (line.at <= cursor if backward else line.at >= cursor)
        if in_time and LEVELS.index(line.level) >= LEVELS.index(level) and search in line.text:
            yield line
