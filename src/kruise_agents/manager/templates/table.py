"""One TOML table, read key by key: every complaint has the file, the line, and what should stand there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_KEY = r"""(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)"""
_HEADER = re.compile(rf"\s*\[\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*=")


class Source:
    """A file's text, and what is wrong with it so far."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.problems: list[str] = []
        self._lines = list(_keys_of(text))

    def complain(self, key: tuple[str, ...], problem: str) -> None:
        """Note that something is wrong with the value of ``key``, or with the whole file."""
        self.problems.append(f"{self.place(key)}: {problem}")

    def place(self, key: tuple[str, ...]) -> str:
        """The file, with the line of ``key`` where it is known."""
        line = next((number for number, found in self._lines if found[: len(key)] == key), None) if key else None
        if line is None and len(key) > 1:
            return self.place(key[:-1])
        return f"{self.path}:{line}" if line is not None else str(self.path)


class Table:
    """The keys of one table. A wrong value is noted and counts as absent.

    Parameters:
        known: every key that may stand here.
    """

    def __init__(self, source: Source, values: dict[str, Any], known: Iterable[str], at: tuple[str, ...] = ()) -> None:
        self._source = source
        self._values = values
        self._at = at
        known = tuple(known)
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"
                self.complain(key, f"unknown key '{key}'; {hint}")

    def complain(self, key: str | None, problem: str, *below: str) -> None:
        """Note that something is wrong with the value of a key, with a key ``below`` it, or with the table."""
        self._source.complain((*self._at, key, *below) if key is not None else self._at, problem)

    def text(self, key: str) -> str | None:
        """A string that is not empty."""
        value = self._of_type(key, str, "a string")
        if value is not None and (not value.strip() or "\0" in value):
            self.complain(key, f"'{key}' must not {'have a zero byte' if value.strip() else 'be empty'}")
            return None
        return value

    def flag(self, key: str) -> bool | None:
        """``true`` or ``false``."""
        value: bool | None = self._of_type(key, bool, "true or false")
        return value

    def number(self, key: str, least: int, most: int) -> int | None:
        """A whole number in a range."""
        wanted = f"a whole number from {least} to {most}"
        value = self._of_type(key, int, wanted)
        if value is not None and (isinstance(value, bool) or not least <= value <= most):
            self.complain(key, f"'{key}' must be {wanted}, got {_shown(value)}")
            return None
        return value

    def seconds(self, key: str) -> float | None:
        """A number above 0."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 3600:
            self.complain(key, f"'{key}' must be a number of seconds, above 0 and up to 3600, got {_shown(value)}")
            return None
        return float(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings; empty when absent."""
        values = self._of_type(key, list, "an array of strings") or []
        if not all(isinstance(value, str) and value.strip() for value in values):
            self.complain(key, f"'{key}' must be an array of strings, got {_shown(values)}")
            return ()
        return tuple(values)

    def text_map(self, key: str) -> dict[str, str]:
        """A table of strings; empty when absent."""
        values = self._of_type(key, dict, f"a table of strings: [{key}], then a line for each") or {}
        kept = {}
        for name, value in values.items():
            if isinstance(value, str):
                kept[name] = value
            else:
                self._source.complain((*self._at, key, name), f"'{name}' must be a string, got {_shown(value)}")
        return kept

    def table(self, key: str, known: Iterable[str]) -> Table | None:
        """A table inside this one."""
        values = self._of_type(key, dict, f"a table: [{key}]")
        return None if values is None else Table(self._source, values, known, (*self._at, key))

    def place(self, key: str) -> str | None:
        """Where a key stands, with the file; None: nowhere."""
        return self._source.place((*self._at, key)) if key in self._values else None

    def _of_type(self, key: str, kind: type, wanted: str) -> Any:
        value = self._values.get(key)
        if value is not None and not isinstance(value, kind):
            self.complain(key, f"'{key}' must be {wanted}, got {_shown(value)}")
            return None
        return value


def _keys_of(text: str) -> Iterable[tuple[int, tuple[str, ...]]]:
    """The line on which each key or table begins, where it is written on a line of its own."""
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _parts(header[1])
            yield number, table
        elif assignment := _ASSIGNMENT.match(line):
            yield number, (*table, *_parts(assignment[1]))


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_KEY, dotted))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
