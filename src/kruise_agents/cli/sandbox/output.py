"""The output of the commands: tables and JSON on standard output, notes on standard error.

Names, metadata, log lines and file names come from sandboxes and managers. :func:`plain` shows their control
characters as escapes, so that none of them can steer the user's terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_ANY_WIDTH = 100_000
_STYLES = {"running": "green", "paused": "yellow", "error": "red", "warn": "yellow"}
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def plain(text: object) -> str:
    """Return a text without control characters: an escape such as ``\\x1b`` stands in place of each."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def note(text: str) -> None:
    """Write a line to standard error."""
    print(plain(text), file=sys.stderr, flush=True)


def print_line(text: object) -> None:
    """Write a line to standard output. Characters that the output's encoding lacks become ``?``."""
    line = plain(text)
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding), flush=True)


def print_json(value: Any) -> None:
    """Write a value as JSON in ASCII, so that a terminal gets no control characters."""
    print(json.dumps(value, indent=2, default=_jsonable))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write rows below their headings. In a pipe a row is one line, however long; a terminal folds wide cells."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _ANY_WIDTH
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    for row in rows:
        cells = [plain("-" if cell in (None, "") else cell) for cell in row]
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    console.print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """Write names and values, a line each."""
    width = max(map(len, fields)) + 1
    for name, value in fields.items():
        print_line(f"{name + ':':{width}}  {'-' if value in (None, '') else value}")


def duration_text(seconds: float) -> str:
    """Return a duration in its largest two units, for example ``2h5m``."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in _UNITS:
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size}{unit}")
            left %= size
        elif parts:
            break
    return "".join(parts[:2])


def age(moment: datetime | None) -> str:
    """Return how long ago a moment was; an empty text for None."""
    return "" if moment is None else duration_text((datetime.now(UTC) - _aware(moment)).total_seconds())


def time_left(moment: datetime | None) -> str:
    """Return how long it takes until a moment; an empty text for None."""
    return "" if moment is None else duration_text((_aware(moment) - datetime.now(UTC)).total_seconds())


def size_text(size: float) -> str:
    """Return a size in bytes in a unit of 1000, for example ``3.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def metadata_text(metadata: Mapping[str, str] | None) -> str:
    """Return metadata as ``key=value,key=value``, by key."""
    return ",".join(f"{key}={value}" for key, value in sorted((metadata or {}).items()))


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _jsonable(value: object) -> str:
    return _aware(value).isoformat() if isinstance(value, datetime) else str(value)
