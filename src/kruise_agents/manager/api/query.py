"""Reading query parameters: every complaint names the parameter, what stood there, and what should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .errors import ApiError

_MAX_DIGITS = 18


def whole_number(query: Mapping[str, str], name: str) -> int | None:
    """A whole number that is not negative, or None.

    Raises:
        ApiError: 400.
    """
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise ApiError(400, f"{name} must be a whole number, 0 or more, got {text[:60]!r}")
    return int(text)


def one_of(query: Mapping[str, str], name: str, values: Sequence[str]) -> str:
    """One of some words; the first of them when it is absent.

    Raises:
        ApiError: 400.
    """
    value = query.get(name, values[0])
    if value not in values:
        raise ApiError(400, f"{name} must be one of {', '.join(values)}, got {value[:60]!r}")
    return value
