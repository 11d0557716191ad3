"""The reading of requests as OpenKruise's manager does it, with the errors of Go's JSON decoder.

``protocol/openkruise.py`` lists the fields that each handler reads. A handler gets only these fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from ...protocol.fields import FLAG, INTEGER, OBJECT, TEXT, TEXT_LIST, TEXT_MAP, FieldError, Fields
from ...protocol.openkruise import Route
from ..api.reading import read_raw

_PLACES = {
    "Expecting value": "looking for beginning of value",
    "Expecting property name": "looking for beginning of object key string",
    "Expecting ':' delimiter": "after object key",
    "Expecting ',' delimiter": "after object key:value pair",
}
_GO_KINDS: Mapping[type, str] = {bool: "bool", str: "string", int: "number", float: "number", list: "array"}
_GO_TYPES = {
    TEXT: "string",
    INTEGER: "int",
    FLAG: "bool",
    OBJECT: "struct",
    TEXT_LIST: "[]string",
    TEXT_MAP: "map[string]string",
}


class Refused(Exception):
    """An answer that reports an error. ``code`` is the code in its body, where that differs from the status."""

    def __init__(self, status: int, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = status if code is None else code


class _GoFields(Fields):
    """Fields whose maps take ``null`` for an empty string, as Go's decoder does."""

    __slots__ = ()

    def text_map(self, name: str) -> dict[str, str]:
        value = self.value(name)
        if isinstance(value, dict):
            value = {key: "" if text is None else text for key, text in value.items()}
        return Fields({name: value}, self.path).text_map(name)


async def read_body(request: Request, route: Route) -> Fields:
    """Return what the handler of ``route`` reads of the body. Other text than a JSON object raises a ValueError."""
    body = await read_object(request)
    known = {name.partition(".")[0] for name in route.reads}
    return _GoFields({name: value for name, value in body.items() if name in known})


async def read_object(request: Request) -> Mapping[str, Any]:
    """Return the JSON object in the body. Anything else raises a ValueError with the text of Go's decoder."""
    text = (await read_raw(request)).decode(errors="replace").lstrip()
    if not text:
        raise ValueError("EOF")
    try:
        value, _ = json.JSONDecoder().raw_decode(text)  # Go's decoder reads one value too, and leaves the rest
    except json.JSONDecodeError as error:
        raise ValueError(_complaint(error)) from None
    except (RecursionError, ValueError):
        raise ValueError("exceeded max depth") from None
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # JSON can spell half a surrogate pair. Go takes that for U+FFFD, which no client means.
        raise ValueError("invalid surrogate pair in string literal") from None
    if value is None:
        return {}  # Go's decoder leaves the struct as it is
    if not isinstance(value, dict):
        raise ValueError(f"json: cannot unmarshal {_kind(value)} into Go value of type struct")  # noqa: TRY004 - of the body
    return value


def _complaint(error: json.JSONDecodeError) -> str:
    if error.pos >= len(error.doc) or error.msg.startswith(("Unterminated", "Invalid \\u")):
        return "unexpected EOF"
    place = next((place for start, place in _PLACES.items() if error.msg.startswith(start)), "in string literal")
    return f"invalid character {error.doc[error.pos]!r} {place}"


def unmarshal_error(error: FieldError, struct: str) -> str:
    """Return what Go's decoder says of a field of a wrong type."""
    name = ".".join(str(part) for part in error.path)
    return (
        f"json: cannot unmarshal {_kind(error.seen)} into Go struct field {struct}.{name} "
        f"of type {_GO_TYPES.get(error.wanted, 'struct')}"
    )


def _kind(value: object) -> str:
    return _GO_KINDS.get(type(value), "object")


def read_query(request: Request) -> dict[str, str]:
    """Return the query. Of a key that is there twice, the first value counts."""
    query: bytes = request.scope["query_string"]
    found: dict[str, str] = {}
    for key, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        found.setdefault(key, value)
    return found
