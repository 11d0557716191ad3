"""Reading of messages in protobuf's JSON mapping.

Source: the ProtoJSON format. Names are lowerCamelCase and accepted in snake_case; null means unset;
unknown fields are ignored; numbers may be strings, enum values names or numbers.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import Code, ConnectError

_T = TypeVar("_T")
_UPPER = re.compile("[A-Z]")
_UINT32_MAX = 2**32 - 1


class Message:
    """One JSON object and typed access to its fields.

    Every accessor raises :class:`ConnectError` ``invalid_argument`` for a field of the wrong type.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    @classmethod
    def decode(cls, data: bytes) -> Message:
        """Parse the bytes of a request.

        Raises:
            ConnectError: ``invalid_argument``: not a JSON object in UTF-8.
        """
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ConnectError(Code.INVALID_ARGUMENT, f"unmarshal message: invalid JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ConnectError(Code.INVALID_ARGUMENT, "unmarshal message: not a JSON object")
        return cls(fields)

    def has(self, name: str) -> bool:
        """Whether the field is set, be it to its default value."""
        return self._raw(name) is not None

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        return self._of_type(name, str, default)

    def optional_text(self, name: str) -> str | None:
        """A string, or None when it is not set."""
        return self.text(name) if self.has(name) else None

    def flag(self, name: str, default: bool = False) -> bool:
        """A bool."""
        return self._of_type(name, bool, default)

    def uint32(self, name: str) -> int:
        """An unsigned number of 32 bits; 0 when it is not set."""
        value = self._raw(name)
        if value is None:
            return 0
        try:
            number = None if isinstance(value, bool) else int(value)
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is None or not 0 <= number <= _UINT32_MAX or number != float(value):
            raise _wrong(name, "a uint32")
        return number

    def data(self, name: str) -> bytes:
        """Bytes, from standard or URL-safe base64."""
        text = self.text(name).rstrip("=").replace("-", "+").replace("_", "/")
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise _wrong(name, "base64") from None

    def enum(self, name: str, values: Mapping[str, int]) -> int | str:
        """The number of an enum value.

        A number that ``values`` does not have is handed on, for the caller to refuse; so is an unknown name.
        """
        value = self._raw(name)
        if value is None:
            return 0
        if isinstance(value, str):
            return values.get(value, value)
        return self.uint32(name)

    def texts(self, name: str) -> list[str]:
        """A list of strings."""
        values: list[Any] = self._of_type(name, list, [])
        if not all(isinstance(value, str) for value in values):
            raise _wrong(name, "a list of strings")
        return values

    def text_map(self, name: str) -> dict[str, str]:
        """A map from strings to strings."""
        values: dict[str, Any] = self._of_type(name, dict, {})
        if not all(isinstance(value, str) for value in values.values()):
            raise _wrong(name, "a map of strings")
        return values

    def message(self, name: str) -> Message | None:
        """A message inside this one, or None when it is not set."""
        return Message(self._of_type(name, dict, {})) if self.has(name) else None

    def _raw(self, name: str) -> Any:
        value = self._fields.get(name)
        if value is None:
            value = self._fields.get(_snake_case(name))
        return value

    def _of_type(self, name: str, wanted: type[_T], default: _T) -> _T:
        value = self._raw(name)
        if value is None:
            return default
        if not isinstance(value, wanted):
            raise _wrong(name, f"a {wanted.__name__}")
        return value


def _snake_case(name: str) -> str:
    return _UPPER.sub(lambda match: "_" + match.group().lower(), name)


def _wrong(name: str, wanted: str) -> ConnectError:
    return ConnectError(Code.INVALID_ARGUMENT, f"unmarshal message: field {name!r} is not {wanted}")
