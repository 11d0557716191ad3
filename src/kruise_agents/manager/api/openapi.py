"""The OpenAPI 3.1 document of ``GET /openapi.json``, derived from the declarations of the routes."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from ... import __version__
from ...protocol.names import API_KEY_HEADER
from .errors import ErrorReply
from .reading import BODY_SECONDS, MAX_BYTES, Member, members, unwrap
from .routes import Access, ApiRoute, Topic

Json = dict[str, Any]

_CONVERTER = re.compile(r":[a-z]+\}")
_PARAMETER = re.compile(r"\{([a-z_]+)\}")
_PLAIN: dict[Any, Json] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    types.NoneType: {"type": "null"},
    dict: {"type": "object"},
    bytes: {},
    Any: {},
}
MEANINGS = {
    400: "The request is wrong, or this manager cannot do what it asks for; the message says why",
    401: "The credentials are missing or unknown",
    403: "The API key may not do this; in a volume, the permissions of a file or folder forbid it",
    404: "Nothing of that name or ID exists for the API key, or there is no such route",
    408: f"The body did not arrive within {BODY_SECONDS:g} seconds",
    409: "The present state does not permit this",
    413: f"The body is larger than {MAX_BYTES // 2**20} MiB",
    500: "The manager or the sandbox failed",
    503: "The manager is ending; another attempt may succeed in a moment",
    507: "The disk is full, or a disk quota is used up",
}
"""Descriptions of error statuses, for routes that give none of their own."""
_SECURITY: dict[Access, list[dict[str, list[str]]]] = {Access.VOLUME_TOKEN: [{"VolumeToken": []}], Access.PUBLIC: []}


def document(routes: Iterable[ApiRoute]) -> Json:
    """Return the OpenAPI document. The server URL is relative to the address where a client read the document."""
    schemas = _Schemas()
    paths: dict[str, Json] = {}
    topics: set[Topic] = set()
    for route in routes:
        path = _CONVERTER.sub("}", route.path)
        method = route.operation.method.lower()
        paths.setdefault(path, {}).setdefault(method, _operation(path, route, schemas))
        topics.add(route.topic)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kruise-agents sandbox-manager",
            "version": __version__,
            "description": "The control plane, as the E2B SDKs call it. Sandboxes are reached through the gateway.",
        },
        "servers": [{"url": "."}],
        "security": [{"ApiKey": []}],
        "tags": [{"name": topic.value} for topic in Topic if topic in topics],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "ApiKey": {"type": "apiKey", "in": "header", "name": API_KEY_HEADER},
                "VolumeToken": {"type": "http", "scheme": "bearer", "description": "the token of the volume"},
            },
        },
    }


def _operation(path: str, route: ApiRoute, schemas: _Schemas) -> Json:
    operation = route.operation
    reads = operation.reads
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _PLAIN[str]} for name in _PARAMETER.findall(path)
    ]
    for part, place in (("query", "query"), ("headers", "header")):
        parameters += [
            {"name": member.name, "in": place, "required": member.required, "schema": schemas.of_parameter(member)}
            for member in (members(reads[part]) if part in reads else ())
        ]
    described: Json = {"summary": operation.summary, "parameters": parameters, "tags": [route.topic.value]}
    if operation.note:
        described["description"] = operation.note
    if "body" in reads:
        described["requestBody"] = {"content": {"application/json": {"schema": schemas.of(reads["body"])}}}
    if operation.access in _SECURITY:
        described["security"] = _SECURITY[operation.access]
    refusals = {**(dict.fromkeys((408, 413), "") if "body" in reads else {}), **operation.refusals}
    if operation.access is not Access.PUBLIC:
        refusals[401] = ""
    described["responses"] = {
        **{str(status): _response(status, answer, schemas) for status, answer in operation.answers.items()},
        **{str(status): _response(status, ErrorReply, schemas, refusals[status]) for status in sorted(refusals)},
    }
    return described


def _response(status: int, answer: Any, schemas: _Schemas, meaning: str = "") -> Json:
    response: Json = {"description": meaning or MEANINGS.get(status) or HTTPStatus(status).phrase}
    if answer is not None:
        content = answer if isinstance(answer, Mapping) else {"application/json": answer}
        response["content"] = {media: {"schema": schemas.of(hint)} for media, hint in content.items()}
    return response


class _Schemas:
    """The JSON Schemas of types. A dataclass or ``TypedDict`` is a component, unless a ``Spec`` replaces its schema."""

    def __init__(self) -> None:
        self.components: dict[str, Json] = {}
        self._kinds: dict[str, Any] = {}

    def of(self, hint: Any) -> Json:
        kind, specs, nullable = unwrap(hint)
        declared = {name: value for spec in specs for name, value in spec.schema.items()}
        schema = declared if "type" in declared else {**self._of_kind(kind), **declared}
        return {"anyOf": [schema, _PLAIN[types.NoneType]]} if nullable else schema

    def of_parameter(self, member: Member) -> Json:
        """Return the schema of a query parameter or header. The schema never permits null."""
        schema = self.of(member.hint)
        return {**(schema["anyOf"][0] if "anyOf" in schema else schema), **_default(member)}

    def _of_kind(self, kind: Any) -> Json:
        if kind in _PLAIN:
            return _PLAIN[kind]
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Literal:
            return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
        if origin in (list, Sequence):
            return {"type": "array", "items": self.of(arguments[0])}
        if origin in (dict, Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if origin in (Union, types.UnionType):
            return {"oneOf": [self.of(argument) for argument in arguments]}
        name = re.sub("^_|(Request|Reply)$", "", kind.__name__)  # _LogsReply becomes Logs
        if self._kinds.setdefault(name, kind) is not kind:
            raise TypeError(f"{kind} and {self._kinds[name]} would both be the schema {name}")
        if name not in self.components:
            self.components[name] = self._of_reply(kind) if is_typeddict(kind) else self._of_declaration(kind)
        return {"$ref": f"#/components/schemas/{name}"}

    def _of_declaration(self, kind: type) -> Json:
        return _object({member.name: (self._of_member(member), member.required) for member in members(kind)})

    def _of_member(self, member: Member) -> Json:
        # A member that may be absent may be null too.
        schema = self.of(member.hint if member.required else member.hint | None)
        return {**schema, **_default(member)}

    def _of_reply(self, kind: type) -> Json:
        properties = {}
        for name, hint in get_type_hints(kind, include_extras=True).items():
            optional = get_origin(hint) is NotRequired
            properties[name] = (self.of(get_args(hint)[0] if optional else hint), not optional)
        return _object(properties)


def _default(member: Member) -> Json:
    """Return the ``default`` keyword of a schema if the member's default is a number, a flag or a non-empty text."""
    default = member.default() if member.default is not None else None
    return {"default": default} if isinstance(default, int | float | str) and default != "" else {}


def _object(properties: Mapping[str, tuple[Json, bool]]) -> Json:
    return {
        "type": "object",
        "required": sorted(name for name, (_, required) in properties.items() if required),
        "properties": {name: schema for name, (schema, _) in properties.items()},
    }
