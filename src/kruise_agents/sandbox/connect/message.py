"""Messages in protobuf's JSON mapping, with a reader for each type of field.

Source: the ProtoJSON format. Names of fields are in lowerCamelCase or snake_case. Null means unset, and unknown fields
are ignored. A number may be a string. An enum value may be its name or its number.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Self

from ...protocol.fields import FLAG, OBJECT, TEXT, TEXT_LIST, TEXT_MAP, FieldError, Fields
from .errors import Code, ConnectError

_UPPER = re.compile("[A-Z]")
_UINT32_MAX = 2**32 - 1
_WORDS = {
    TEXT: "a str",
    FLAG: "a bool",
    OBJECT: "a dict",
    TEXT_LIST: "a list of strings",
    TEXT_MAP: "a map of strings",
}


class Message(Fields):
    """A message. Reading a field of the wrong type raises :class:`FieldError`, which becomes ``invalid_argument``."""

    __slots__ = ()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse a message. Raises ConnectError ``invalid_argument`` if ``data`` is not a JSON object."""
        try:
            return cls.parse(data)
        except ValueError as error:
            raise ConnectError(Code.INVALID_ARGUMENT, f"unmarshal message: invalid JSON: {error}") from error
        except FieldError:
            raise ConnectError(Code.INVALID_ARGUMENT, "unmarshal message: not a JSON object") from None

    def value(self, name: str) -> Any:
        value = self.values.get(name)
        return self.values.get(_snake_case(name)) if value is None else value

    def text(self, name: str, default: str = "") -> str:
        text = super().text(name)
        return default if text is None else text

    def optional_text(self, name: str) -> str | None:
        return super().text(name)

    def flag(self, name: str, default: bool = False) -> bool:
        flag = super().flag(name)
        return default if flag is None else flag

    def text_map(self, name: str) -> dict[str, str]:
        try:
            return super().text_map(name)
        except FieldError:
            raise self.wrong(name, TEXT_MAP) from None  # the error names the map, not the member

    def uint32(self, name: str) -> int:
        value = self.value(name)
        if value is None:
            return 0
        try:
            number = None if isinstance(value, bool) else int(value)
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is None or not 0 <= number <= _UINT32_MAX or number != float(value):
            raise self.wrong(name, "a uint32")
        return number

    def data(self, name: str) -> bytes:
        """Return the decoded bytes of a base64 field. The base64 is standard or URL-safe, with or without padding."""
        text = self.text(name).rstrip("=").replace("-", "+").replace("_", "/")
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise self.wrong(name, "base64") from None

    def enum(self, name: str, values: Mapping[str, int]) -> int | str:
        """Return a known name's number. An unknown name, or any number, is returned for the caller to check."""
        value = self.value(name)
        return values.get(value, value) if isinstance(value, str) else self.uint32(name)


def as_invalid_argument(error: FieldError) -> ConnectError:
    """Return the error that says which field of a message has the wrong type."""
    wanted = _WORDS.get(error.wanted, error.wanted)
    return ConnectError(Code.INVALID_ARGUMENT, f"unmarshal message: field {error.path[-1]!r} is not {wanted}")


def _snake_case(name: str) -> str:
    return _UPPER.sub(lambda match: "_" + match.group().lower(), name)
