"""The reading of request bodies, query parameters and headers, which are declared as dataclasses.

A wrong value raises :class:`ApiError` 400, whose message names the field and says what belongs there.

A declaration is a frozen dataclass. The type of a member says how to read the member. ``Annotated`` with a
:class:`Spec` adds what the type cannot say. A member of a body must be there unless it has a default. The OpenAPI
document comes from the same declarations (``openapi.py``).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import operator
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from typing import Annotated, Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

from starlette.datastructures import QueryParams
from starlette.requests import Request

from ...protocol.fields import FLAG, INTEGER, TEXT, FieldError, Fields, dotted
from .errors import ApiError

BODY_SECONDS = 60.0
MAX_BYTES = 4 * 1024 * 1024
_MAX_DIGITS = 18
_WANTED = {str: TEXT, int: INTEGER, bool: FLAG}
_READERS: dict[Any, Callable[[Fields, str], Any]] = {
    str: Fields.text,
    int: Fields.integer,
    bool: Fields.flag,
    list: Fields.texts,
    dict: Fields.text_map,
}

_T = TypeVar("_T")


class Spec:
    """The part of a member's declaration that the member's type cannot express.

    Args:
        name: the name in the request, when it is not the camel case of the attribute.
        read: a function that reads the member in place of the type's reader, and returns None for an absent member. The
            first argument is :class:`Fields` for a body, and a mapping for query and headers; the second is the name.
        check: a function that is called with the name and the value, and raises an error for a wrong value.
        schema: keywords of JSON Schema, which are added to the schema of the type. If ``type`` is one of the keywords,
            the schema has these keywords only.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        read: Callable[[Any, str], Any] | None = None,
        check: Callable[[str, Any], None] | None = None,
        **schema: Any,
    ) -> None:
        self.name = name
        self.read = read
        self.check = check
        self.schema = schema


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a dataclass that declares a part of a request.

    Args:
        hint: the type with its annotations.
        kind: the type without annotations and without None.
        default: a function that makes the value of an absent member. None for a required member.
    """

    attribute: str
    name: str
    hint: Any
    kind: Any
    default: Callable[[], Any] | None
    read: Callable[[Any, str], Any] | None
    checks: Sequence[Callable[[str, Any], None]]

    @property
    def required(self) -> bool:
        return self.default is None

    def checked(self, value: Any) -> Any:
        """Check and return ``value``. If ``value`` is None and there is a default, return the default unchecked."""
        if value is None and self.default is not None:
            return self.default()
        for check in self.checks:
            check(self.name, value)
        return value


def unwrap(hint: Any) -> tuple[Any, list[Spec], bool]:
    """Return three values: the bare type, its annotations (from ``Annotated``), and whether None is allowed."""
    specs: list[Spec] = []
    nullable = False
    while True:
        origin = get_origin(hint)
        if origin is Annotated:
            specs = [*hint.__metadata__, *specs]
            hint = hint.__origin__
        elif origin in (Union, types.UnionType) and types.NoneType in get_args(hint):
            nullable = True
            hint = reduce(operator.or_, (part for part in get_args(hint) if part is not types.NoneType))
        else:
            return hint, specs, nullable


def members(declaration: type) -> tuple[Member, ...]:
    """Return a member for each field of the dataclass ``declaration``, in the order of the fields."""
    return _members(declaration)


@cache  # not on members(), because mypy refuses generic classes as arguments of cached functions
def _members(declaration: type) -> tuple[Member, ...]:
    hints = get_type_hints(declaration, include_extras=True)
    return tuple(_member(field, hints[field.name]) for field in dataclasses.fields(declaration))


def _member(field: dataclasses.Field[Any], hint: Any) -> Member:
    kind, specs, _ = unwrap(hint)
    name = next((spec.name for spec in specs if spec.name), _camel_case(field.name))
    read = next((spec.read for spec in specs if spec.read), None)
    checks = [spec.check for spec in specs if spec.check]
    default: Callable[[], Any] | None = None
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory
    elif field.default is not dataclasses.MISSING:
        default = partial(getattr, field, "default")
    return Member(field.name, name, hint, kind, default, read, checks)


def _camel_case(attribute: str) -> str:
    first, *rest = attribute.split("_")
    return first + "".join("ID" if part == "id" else part.capitalize() for part in rest)


async def read_fields(request: Request) -> Fields:
    """Return the JSON object in the body of a request. An empty body counts as ``{}``.

    Raises ApiError: 400 when the body is not a JSON object, 408 when the body takes longer than :data:`BODY_SECONDS` to
    arrive, 413 when the body is larger than 4 MiB.
    """
    data = await read_raw(request)
    if not data.strip():
        return Fields({})
    try:
        # Decoded as UTF-8 here, because json.loads would also accept bytes in UTF-16 or UTF-32.
        fields = Fields.parse(data.decode())
        # JSON can spell half a surrogate pair, which cannot be encoded.
        json.dumps(fields.values, ensure_ascii=False).encode()
    except FieldError as error:
        message = f"Error when parsing request: the body must be a JSON object, got {_shown(error.seen)}"
        raise ApiError(400, message) from None
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"Error when parsing request: the body is not JSON: {error}") from None
    return fields


async def read_raw(request: Request) -> bytes:
    """Return the body of a request. Raises ApiError 408 and 413 as :func:`read_fields` does."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _receive(request)
    except TimeoutError:
        raise ApiError(408, f"the request body did not arrive within {BODY_SECONDS:g} seconds") from None


async def _receive(request: Request) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BYTES:
            raise ApiError(413, f"the request body is larger than {MAX_BYTES} bytes")
    return bytes(data)


def read_body(declaration: type[_T], fields: Fields) -> _T:
    """Return the members of a body as an instance of ``declaration``.

    A declaration may have a static method ``check(fields)``, which is called first and may refuse the object.
    """
    try:
        return _read_object(declaration, fields)
    except FieldError as error:
        if error.missing:
            raise ApiError(400, f"field '{error.name}' is missing; it must be {error.wanted}") from None
        raise ApiError(400, f"field '{error.name}' must be {error.wanted}, got {_shown(error.seen)}") from None


def _read_object(declaration: type[_T], fields: Fields) -> _T:
    check: Callable[[Fields], None] | None = getattr(declaration, "check", None)
    if check is not None:
        check(fields)
    values = {}
    for member in members(declaration):
        value = _read_member(fields, member)
        if member.required:
            fields.required(member.name, value, _WANTED[member.kind])
        values[member.attribute] = member.checked(value)
    return declaration(**values)


def _read_member(fields: Fields, member: Member) -> Any:
    name, kind = member.name, member.kind
    if member.read is not None:
        return member.read(fields, name)
    if not fields.has(name):
        return None
    if _is_declaration(kind):
        inner = fields.object(name)
        return None if inner is None else _read_object(kind, inner)
    if get_origin(kind) is list and _is_declaration(item := get_args(kind)[0]):
        return [_read_object(item, entry) for entry in fields.objects(name)]
    return _READERS[get_origin(kind) or kind](fields, name)


def _is_declaration(kind: Any) -> TypeGuard[type]:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def read_query(request: Request) -> Mapping[str, str]:
    """Return the query of a request. Percent-encoded bytes that are not UTF-8 raise ApiError 400."""
    query: bytes = request.scope["query_string"]
    try:
        return QueryParams(parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="strict"))
    except UnicodeDecodeError:
        raise ApiError(400, "the query of the URL is not UTF-8") from None


def read_parameters(declaration: type[_T], values: Mapping[str, str]) -> _T:
    """Return query parameters or headers as an instance of ``declaration``."""
    found = {member.attribute: _read_parameter(values, member) for member in members(declaration)}
    return declaration(**found)


def _read_parameter(values: Mapping[str, str], member: Member) -> Any:
    if member.read is not None:
        value = member.read(values, member.name)
    elif member.kind is int:
        value = whole_number(values, member.name)
    else:
        value = values.get(member.name)
        words = get_args(member.kind) if get_origin(member.kind) is Literal else ()
        if value is not None and words and value not in words:
            raise ApiError(400, f"{member.name} must be one of {', '.join(words)}, got {value[:60]!r}")
    return member.checked(value)


def whole_number(query: Mapping[str, str], name: str) -> int | None:
    """Return a query parameter as an int >= 0; None if the parameter is absent. A wrong value raises ApiError 400."""
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise ApiError(400, f"{name} must be a whole number, 0 or more, got {text[:60]!r}")
    return int(text)


def allow_only(fields: Fields, *names: str) -> None:
    """Raise ApiError 400 if an object has a member with a name that is not in ``names``."""
    for name in fields.unknown(names):
        raise ApiError(400, f"field {_shown(dotted((*fields.path, name)))} is unknown; there are {', '.join(names)}")


def refuse(fields: Fields, reasons: Mapping[str, str]) -> None:
    """Raise ApiError 400 for a field that ``reasons`` names as unsupported. Empty and false values pass."""
    for name, reason in reasons.items():
        if fields.value(name) not in (None, False, [], {}, ""):
            where = dotted((*fields.path, name))
            raise ApiError(400, f"field '{where}' is not supported by this manager: {reason}")


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
