"""A TOML table, read key by key. Complaints name the file, the line if known, and the problem."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from ...protocol.fields import TEXT_LIST, FieldError, Fields
from ...protocol.fields import Path as FieldPath

_KEY = r"""(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)"""
_HEADER = re.compile(rf"\s*\[\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*=")
_T = TypeVar("_T")


class Source:
    """The text of a file and the complaints about it so far."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.problems: list[str] = []
        self._lines = list(_keys_of(text))

    def complain(self, key: FieldPath, problem: str) -> None:
        """Record a problem with the value of ``key``. An empty key stands for the whole file."""
        self.problems.append(f"{self.place(key)}: {problem}")

    def place(self, key: FieldPath) -> str:
        """Return the file and, if known, the line of ``key`` or of the table around the key."""
        line = next((number for number, found in self._lines if found[: len(key)] == key), None) if key else None
        if line is None and len(key) > 1:
            return self.place(key[:-1])
        return f"{self.path}:{line}" if line is not None else str(self.path)


class Table:
    """A table with the ``known`` keys. Other keys and wrong values are reported as problems, and then ignored."""

    def __init__(self, source: Source, fields: Fields, known: Iterable[str]) -> None:
        self._source = source
        self._fields = fields
        known = tuple(known)
        for key in fields.unknown(known):
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"
            self.complain(key, f"unknown key '{key}'; {hint}")

    def complain(self, key: str | None, problem: str, *below: str) -> None:
        """Record a problem with the table (``key`` is None), with ``key``, or with the key ``below`` inside ``key``."""
        self._source.complain((*self._fields.path, key, *below) if key is not None else self._fields.path, problem)

    def text(self, key: str) -> str | None:
        value = self._read(self._fields.text, key)
        if value is not None and (not value.strip() or "\0" in value):
            self.complain(key, f"'{key}' must not {'have a zero byte' if value.strip() else 'be empty'}")
            return None
        return value

    def flag(self, key: str) -> bool | None:
        return self._read(self._fields.flag, key)

    def number(self, key: str, least: int, most: int) -> int | None:
        return self._read(lambda key: self._fields.integer(key, least, most, allow_float=False), key)

    def seconds(self, key: str) -> float | None:
        value = self._fields.value(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 3600:
            self.complain(key, f"'{key}' must be a number of seconds, above 0 and up to 3600, got {_shown(value)}")
            return None
        return float(value)

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._read(self._fields.texts, key) or []
        if not all(value.strip() for value in values):
            self._note(self._fields.wrong(key, TEXT_LIST))
            return ()
        return tuple(values)

    def text_map(self, key: str) -> dict[str, str]:
        fields = self._read(self._fields.object, key, f"a table of strings: [{key}], then a line for each")
        if fields is None:
            return {}
        values = {name: self._read(fields.text, name) for name in fields.values}
        return {name: value for name, value in values.items() if value is not None}

    def table(self, key: str, known: Iterable[str]) -> Table | None:
        fields = self._read(self._fields.object, key, f"a table: [{key}]")
        return None if fields is None else Table(self._source, fields, known)

    def place(self, key: str) -> str | None:
        """Return the file and, if known, the line of a key; None if the key is absent."""
        return self._source.place((*self._fields.path, key)) if self._fields.has(key) else None

    def _read(self, read: Callable[[str], _T], key: str, wanted: str | None = None) -> _T | None:
        try:
            return read(key)
        except FieldError as error:
            self._note(error, wanted)
            return None

    def _note(self, error: FieldError, wanted: str | None = None) -> None:
        problem = f"'{error.path[-1]}' must be {wanted or error.wanted}, got {_shown(error.seen)}"
        self._source.complain(error.path, problem)


def _keys_of(text: str) -> Iterable[tuple[int, tuple[str, ...]]]:
    """Yield line number and full name for each line that looks like a key with a value, or like a table header."""
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
