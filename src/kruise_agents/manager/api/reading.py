"""Reading request bodies: every complaint names the field, what stood there, and what should."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from .errors import ApiError

_MAX_BYTES = 4 * 1024 * 1024
BODY_SECONDS = 60.0
_MAX_DIGITS = 18
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)"
_WHOLE = re.compile(rf"([+-]?)((?:{_PART})+)", re.ASCII)
_LONGEST = 2**63 * 1e-9


class Fields:
    """The members of a JSON object, each read with the type that it must have. ``null`` counts as absent.

    Parameters:
        where: what stands before the names of its members in a complaint: the path to an object in another.
    """

    def __init__(self, values: dict[str, Any], where: str = "") -> None:
        self._values = values
        self._where = where

    def text(self, name: str) -> str:
        """A string that must be there.

        Raises:
            ApiError: 400, naming the field (as for every method here).
        """
        value = self._values.get(name)
        if value is None:
            raise ApiError(400, f"field '{self._where}{name}' is missing; it must be a string")
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def integer(self, name: str) -> int | None:
        """A whole number, or None."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(name, "a whole number")
        return value

    def flag(self, name: str) -> bool | None:
        """``true`` or ``false``, or None."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def texts(self, name: str) -> dict[str, str]:
        """An object of strings, empty when absent."""
        value = self._values.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(name, "an object of strings")
        for key, one in value.items():
            if not isinstance(one, str):
                raise ApiError(400, f"field '{self._where}{name}.{key}' must be a string, got {_shown(one)}")
        return value

    def strings(self, name: str) -> list[str]:
        """An array of strings, empty when absent."""
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self._wrong(name, "an array of strings")
        return value

    def object(self, name: str) -> Fields:
        """A nested object, empty when absent."""
        value = self._values.get(name)
        if value is None:
            return Fields({})
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return Fields(value, f"{self._where}{name}.")

    def objects(self, name: str) -> list[Fields]:
        """A list of objects, empty when absent."""
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self._wrong(name, "a list of objects")
        return [Fields(one, f"{self._where}{name}[{number}].") for number, one in enumerate(value)]

    def required_integer(self, name: str) -> int:
        """A whole number that must be there."""
        value = self.integer(name)
        if value is None:
            raise ApiError(400, f"field '{self._where}{name}' is missing; it must be a whole number")
        return value

    def allow_only(self, *names: str) -> None:
        """Refuse a member with any other name."""
        for name in self._values:
            if name not in names:
                raise ApiError(400, f"field {_shown(self._where + name)} is unknown; there are {', '.join(names)}")

    def refuse(self, name: str, why: str) -> None:
        """Refuse a field that asks for something this manager cannot do; absent and empty values pass."""
        value = self._values.get(name)
        if value not in (None, False, [], {}, ""):
            raise ApiError(400, f"field '{self._where}{name}' is not supported by this manager: {why}")

    def digest(self) -> bytes:
        """The same for two objects that say the same, however they were written."""
        text = json.dumps(self._values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    def names(self) -> list[str]:
        """The names of all members that are not ``null``."""
        return [name for name, value in self._values.items() if value is not None]

    def _wrong(self, name: str, wanted: str) -> ApiError:
        return ApiError(400, f"field '{self._where}{name}' must be {wanted}, got {_shown(self._values[name])}")


async def read_fields(request: Request) -> Fields:
    """The request's JSON object; an empty body counts as ``{}``.

    Raises:
        ApiError: 400 when it is not a JSON object, 408 when it takes longer than :data:`BODY_SECONDS` to arrive, 413
            when it is larger than 4 MiB.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            data = await _read(request)
    except TimeoutError:
        raise ApiError(408, f"the request body did not arrive within {BODY_SECONDS:g} seconds") from None
    if not data.strip():
        return Fields({})
    try:
        value = json.loads(data.decode())  # bytes in UTF-16 would be understood, and no other server does
        json.dumps(value, ensure_ascii=False).encode()  # half a character can be written in JSON, and is no text
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"Error when parsing request: the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"Error when parsing request: the body must be a JSON object, got {_shown(value)}")
    return Fields(value)


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


def read_duration(text: str) -> float:
    """The duration in seconds.

    Raises:
        ValueError: it is none; the text says what one looks like.
    """
    if text.lstrip("+-") == "0" and len(text) <= 2:
        return 0.0
    match = _WHOLE.fullmatch(text)
    if match is None:
        raise ValueError("a duration is a number with a unit, or several, as 90s, 1.5h or 2h45m")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, match[2], re.ASCII))
    if seconds >= _LONGEST:
        raise ValueError("it is longer than 292 years")
    return -seconds if match[1] == "-" else seconds


async def _read(request: Request) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > _MAX_BYTES:
            raise ApiError(413, f"the request body is larger than {_MAX_BYTES} bytes")
    return bytes(data)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
