"""Typed reading of objects that came as JSON or TOML: request bodies, messages and template files.

A wrong value raises :class:`FieldError`. The caller of this module turns that error into an error with the wording of
the caller's protocol. A member that is ``null`` counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeVar

Path = tuple[str | int, ...]
"""Names and list positions from the outermost object down to a field."""

TEXT = "a string"
INTEGER = "a whole number"
FLAG = "true or false"
OBJECT = "an object"
TEXT_LIST = "an array of strings"
TEXT_MAP = "an object of strings"
OBJECT_LIST = "a list of objects"

_T = TypeVar("_T")


class FieldError(Exception):
    """A field that is missing or has a wrong value.

    Args:
        path: the place of the field; empty for the whole body.
        wanted: the kind of value that the field must have, such as ``a string``.
        seen: the value of the field; None if the field is absent.
        missing: True if a required field is absent or null.
    """

    def __init__(self, path: Path, wanted: str, seen: object, *, missing: bool = False) -> None:
        super().__init__(f"{dotted(path) or 'the body'} must be {wanted}, got {seen!r}")
        self.path = path
        self.wanted = wanted
        self.seen = seen
        self.missing = missing

    @property
    def name(self) -> str:
        return dotted(self.path)


class Fields:
    """The members of one object, each read with the type that it must have.

    ``value`` returns a member unchecked. The accessors named after a type, such as ``text`` and ``objects``, return
    None or an empty collection for an absent member, and raise :class:`FieldError` for a wrong member.
    ``required_text`` and ``required_integer`` also raise the error for an absent member. A protocol that knows a field
    by several names overrides ``value``.
    """

    __slots__ = ("path", "values")

    def __init__(self, values: Mapping[str, Any], path: Path = ()) -> None:
        self.values = values
        self.path = path

    @classmethod
    def parse(cls, data: str | bytes) -> Self:
        """Parse a JSON object. Other JSON raises a FieldError with an empty path, and invalid JSON a ValueError."""
        try:
            values = json.loads(data)
        except RecursionError as error:
            raise ValueError(str(error)) from None
        if not isinstance(values, dict):
            raise FieldError((), OBJECT, values)
        return cls(values)

    def value(self, name: str) -> Any:
        return self.values.get(name)

    def has(self, name: str) -> bool:
        return self.value(name) is not None

    def unknown(self, known: Iterable[str]) -> list[str]:
        names = frozenset(known)
        return [name for name in self.values if name not in names]

    def text(self, name: str) -> str | None:
        return self._of_type(name, str, TEXT)

    def required_text(self, name: str) -> str:
        return self.required(name, self.text(name), TEXT)

    def flag(self, name: str) -> bool | None:
        return self._of_type(name, bool, FLAG)

    def integer(
        self, name: str, least: int | None = None, most: int | None = None, *, allow_float: bool = True
    ) -> int | None:
        """Return a whole number, or None for an absent member. ``least`` and ``most`` are checked if both are given.

        ``allow_float`` accepts 5.0 as 5, because JSON has only one type of numbers.
        """
        value = self.value(name)
        wanted = INTEGER if least is None or most is None else f"{INTEGER} from {least} to {most}"
        if allow_float and isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(name, wanted)
        if least is not None and most is not None and not least <= value <= most:
            raise self.wrong(name, wanted)
        return value

    def required_integer(self, name: str) -> int:
        return self.required(name, self.integer(name), INTEGER)

    def texts(self, name: str) -> list[str]:
        values: list[Any] = self._of_type(name, list, TEXT_LIST) or []
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(name, TEXT_LIST)
        return values

    def text_map(self, name: str) -> dict[str, str]:
        values: dict[str, Any] = self._of_type(name, dict, TEXT_MAP) or {}
        for key, value in values.items():
            if not isinstance(value, str):
                raise FieldError((*self.path, name, key), TEXT, value)
        return values

    def object(self, name: str) -> Self | None:
        values: dict[str, Any] | None = self._of_type(name, dict, OBJECT)
        return None if values is None else type(self)(values, (*self.path, name))

    def objects(self, name: str) -> list[Self]:
        values: list[Any] = self._of_type(name, list, OBJECT_LIST) or []
        if not all(isinstance(value, dict) for value in values):
            raise self.wrong(name, OBJECT_LIST)
        return [type(self)(value, (*self.path, name, number)) for number, value in enumerate(values)]

    def wrong(self, name: str, wanted: str) -> FieldError:
        return FieldError((*self.path, name), wanted, self.value(name))

    def required(self, name: str, value: _T | None, wanted: str) -> _T:
        if value is None:
            raise FieldError((*self.path, name), wanted, None, missing=True)
        return value

    def _of_type(self, name: str, kind: type[_T], wanted: str) -> _T | None:
        value = self.value(name)
        if value is not None and not isinstance(value, kind):
            raise self.wrong(name, wanted)
        return value


def dotted(path: Path) -> str:
    """Return a path as text, such as ``volumeMounts[0].name``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
