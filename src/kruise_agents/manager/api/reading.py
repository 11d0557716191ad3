"""Reading requests: bodies, query parameters and headers, declared as dataclasses.

Every function here raises :class:`ApiError` 400, naming the field, the value and what belongs there.

A declaration is a frozen dataclass. The type of a member says how it is read; a member without a default must be there.
``Annotated`` with a :class:`Spec` adds what the type cannot say. The OpenAPI document comes from the same declarations
(``openapi.py``).
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
    """A part of a declaration that the type of a member cannot say.

    Args:
        name: the name in the request, when it is not the camel case of the attribute.
        read: reads the member instead of the reader of its type. The function is called with the body
            (:class:`Fields`) or the query or headers (a mapping), and the name; None means absent.
        check: is called with the name and a value of the right type, and raises an error for a wrong value.
        schema: JSON Schema beside what the type says; with ``type``, instead of what the type says.
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
    """A member of a declaration.

    Args:
        hint: the type with its annotations.
        kind: the type without them.
        default: returns the value of an absent member; None if the member must be there.
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
        """Return a value that passes every check, or the default, which none looks at."""
        if value is None and self.default is not None:
            return self.default()
        for check in self.checks:
            check(self.name, value)
        return value


def unwrap(hint: Any) -> tuple[Any, list[Spec], bool]:
    """Return a type without ``Annotated`` and ``None``, the annotations, and whether None was allowed."""
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
    """Return the members of a declaration, in order."""
    return _members(declaration)


@cache
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
    """Return the JSON object in the body of a request; an empty body counts as ``{}``.

    Raises ApiError: 400 when the body is not a JSON object, 408 when it takes longer than :data:`BODY_SECONDS` to
    arrive, 413 when it is larger than 4 MiB.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            data = await _receive(request)
    except TimeoutError:
        raise ApiError(408, f"the request body did not arrive within {BODY_SECONDS:g} seconds") from None
    if not data.strip():
        return Fields({})
    try:
        # Decoded here, because JSON in UTF-16 is accepted by no other server.
        fields = Fields.parse(data.decode())
        # Half a surrogate pair can be written in JSON and is no text.
        json.dumps(fields.values, ensure_ascii=False).encode()
    except FieldError as error:
        message = f"Error when parsing request: the body must be a JSON object, got {_shown(error.seen)}"
        raise ApiError(400, message) from None
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"Error when parsing request: the body is not JSON: {error}") from None
    return fields


async def _receive(request: Request) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BYTES:
            raise ApiError(413, f"the request body is larger than {MAX_BYTES} bytes")
    return bytes(data)


def read_body(declaration: type[_T], fields: Fields) -> _T:
    """Return the declared body that an object holds.

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


def read_parameters(declaration: type[_T], values: Mapping[str, str]) -> _T:
    """Return the declared query parameters or headers that ``values`` hold."""
    found = {member.attribute: _read_parameter(values, member) for member in members(declaration)}
    return declaration(**found)


def _read_parameter(values: Mapping[str, str], member: Member) -> Any:
    if member.read is not None:
        value = member.read(values, member.name)
    elif member.kind is int:
        value = whole_number(values, member.name)
    elif get_origin(member.kind) is Literal:
        value = one_of(values, member.name, get_args(member.kind))
    else:
        value = values.get(member.name)
    return member.checked(value)


def whole_number(query: Mapping[str, str], name: str) -> int | None:
    """Return a whole number that is not negative, or None."""
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise ApiError(400, f"{name} must be a whole number, 0 or more, got {text[:60]!r}")
    return int(text)


def one_of(query: Mapping[str, str], name: str, values: Sequence[str]) -> str | None:
    """Return one of some words, or None."""
    value = query.get(name)
    if value is not None and value not in values:
        raise ApiError(400, f"{name} must be one of {', '.join(values)}, got {value[:60]!r}")
    return value


def allow_only(fields: Fields, *names: str) -> None:
    """Refuse a member with any other name."""
    for name in fields.unknown(names):
        raise ApiError(400, f"field {_shown(dotted((*fields.path, name)))} is unknown; there are {', '.join(names)}")


def refuse(fields: Fields, reasons: Mapping[str, str]) -> None:
    """Refuse members that ask for something this manager cannot do; absent and empty values pass."""
    for name, reason in reasons.items():
        if fields.value(name) not in (None, False, [], {}, ""):
            where = dotted((*fields.path, name))
            raise ApiError(400, f"field '{where}' is not supported by this manager: {reason}")


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
