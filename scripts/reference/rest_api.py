"""The page of the REST API, from the manager's own OpenAPI document and the error codes in its source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kruise_agents.manager import api
from kruise_agents.manager.api.openapi import MEANINGS, document
from kruise_agents.manager.api.replies import NO_END
from kruise_agents.manager.api.routes import ApiRoute, Topic
from kruise_agents.manager.templates.model import Templates

from .markdown import NOTE, code, filled, table, wrapped

Json = dict[str, Any]

ERROR_CODES = {
    "idempotency_request_mismatch": (422, "The `Idempotency-Key` came with another body before. Use a new key."),
    "idempotency_outcome_unknown": (
        409,
        "The first create with this `Idempotency-Key` crashed, and its sandbox may exist. List the sandboxes, then use "
        "a new key.",
    ),
    "idempotency_sandbox_gone": (
        409,
        "The sandbox that the first create with this `Idempotency-Key` made is gone. Use a new key for another one.",
    ),
    "secret_limit_reached": (400, "The API key has as many secrets as it may have. Delete some first."),
}
_ANY = "any value"
_MOST = (("maxItems", "entries"), ("maxProperties", "entries"), ("maxLength", "characters"))
_CREDENTIALS = {"ApiKey": "API key", "VolumeToken": "the volume's token"}


def declared_routes() -> list[ApiRoute]:
    """Return every route of the API, from a manager that is not started."""
    sandboxes = SimpleNamespace(store=None, secret=None)
    others = dict.fromkeys(("snapshots", "keys", "inheritance", "usage", "volumes", "secrets", "runtime"))
    create: Any = api.create_api  # the parts of a manager are only described here
    app = create(sandboxes=sandboxes, templates=Templates(datetime.now(UTC), ()), health={}, **others)
    return list(app.routes)


def page() -> str:
    """Return the page."""
    described = document(declared_routes())
    topics = list(_topics(described))
    source = Path(api.__file__).parent
    used = {name for path in source.rglob("*.py") for name in re.findall(r'error_code="(\w+)"', path.read_text())}
    if used != set(ERROR_CODES):
        raise ValueError(f"rest_api.py and the code differ about error codes: {used ^ set(ERROR_CODES)}")
    parts = {
        "no_end": NO_END,
        "statuses": table(["status", "meaning"], _statuses()),
        "error_codes": table(
            ["`error_code`", "status", "meaning"],
            [[code(name), str(status), meaning] for name, (status, meaning) in ERROR_CODES.items()],
        ),
        "routes": "\n".join(_overview(topic, operations) for topic, operations in topics),
        "details": "\n".join(
            f"### {topic}\n\n" + "\n".join(_detail(one, described) for one in operations)
            for topic, operations in topics
            if topic != Topic.NOT_SERVED.value
        ),
        "objects": "\n".join(_objects(described)),
    }
    return NOTE + filled(Path(__file__).with_suffix(".md"), parts)


class _Operation:
    """An operation with all paths that lead to it."""

    def __init__(self, method: str, described: Json) -> None:
        self.method = method.upper()
        self.paths: list[str] = []
        self.described = described

    @property
    def summary(self) -> str:
        return str(self.described["summary"])

    @property
    def anchor(self) -> str:
        kept = [character for character in self.summary.lower() if character.isalnum() or character in " -_"]
        return "".join(kept).replace(" ", "-")

    def place(self) -> tuple[int, int]:
        """Return the place among the operations of a topic: collections before their members, creation first."""
        steps = self.paths[0].removeprefix("/v2").count("/")
        return steps, ["POST", "GET", "PUT", "PATCH", "DELETE"].index(self.method)

    @property
    def credentials(self) -> str:
        security = self.described.get("security")
        return _CREDENTIALS["ApiKey"] if security is None else ", ".join(_CREDENTIALS[next(iter(s))] for s in security)


def _topics(described: Json) -> Iterator[tuple[str, list[_Operation]]]:
    """Return the operations by topic. Operations of one declaration, such as those of v1 and v2, become one."""
    found: dict[str, dict[tuple[str, str], _Operation]] = {tag["name"]: {} for tag in described["tags"]}
    for path, item in described["paths"].items():
        for method, operation in item.items():
            (tag,) = operation["tags"]
            same = (method, path if tag == Topic.NOT_SERVED.value else operation["summary"])
            found[tag].setdefault(same, _Operation(method, operation)).paths.append(path)
    for topic, operations in found.items():
        yield (
            topic,
            sorted(operations.values(), key=_Operation.place)
            if topic != Topic.NOT_SERVED.value
            else list(operations.values()),
        )


def _overview(topic: str, operations: list[_Operation]) -> str:
    if topic == Topic.NOT_SERVED.value:
        head = f"**{topic}**: E2B's or OpenKruise's manager has these routes; here they answer 400 and say so.\n\n"
        rows = [[code(f"{one.method} {path}"), _feature(one)] for one in operations for path in one.paths]
        return head + table(["route", "for"], rows)
    rows = [
        [code(f"{one.method} {path}"), f"[{one.summary}](#{one.anchor})", one.credentials or "none"]
        for one in operations
        for path in one.paths
    ]
    return f"**{topic}**\n\n" + table(["route", "effect", "credentials"], rows)


def _feature(operation: _Operation) -> str:
    return operation.summary.removesuffix(": not supported yet")


def _detail(operation: _Operation, described: Json) -> str:
    data = operation.described
    parts = [f"#### {operation.summary}\n", ", ".join(code(f"{operation.method} {path}") for path in operation.paths)]
    parts[-1] += f" · credentials: {operation.credentials or 'none'}\n"
    if "description" in data:
        parts.append(wrapped(data["description"]) + "\n")
    parameters = [
        [code(one["name"]), one["in"], _type(one["schema"]), _meaning(one["schema"], required=one["required"])]
        for one in data["parameters"]
        if one["in"] != "path"
    ]
    if parameters:
        parts.append(table(["parameter", "in", "type", "meaning"], parameters))
    if "requestBody" in data:
        schema = data["requestBody"]["content"]["application/json"]["schema"]
        parts.append(table(["field of the body", "type", "meaning"], _fields(_resolved(schema, described), described)))
    parts.append(table(["status", "answer"], _answers(data["responses"])))
    return "\n".join(parts)


def _fields(schema: Json, described: Json, prefix: str = "") -> Iterator[list[str]]:
    for name, declared in schema.get("properties", {}).items():
        inner = _inner_object(declared, described)
        required = name in schema.get("required", [])
        yield [code(prefix + name), _type(declared, objects=False), _meaning(declared, required=required)]
        if inner is not None:
            nested, brackets = inner
            yield from _fields(nested, described, f"{prefix}{name}{brackets}.")


def _inner_object(schema: Json, described: Json) -> tuple[Json, str] | None:
    plain = _without_null(schema)
    brackets = "[]" if plain.get("type") == "array" else ""
    found = _resolved(plain["items"] if brackets else plain, described)
    return (found, brackets) if "properties" in found else None


def _answers(responses: Json) -> Iterator[list[str]]:
    refused = {}
    for status, response in responses.items():
        kinds = [
            _type(content["schema"])
            if media == "application/json"
            else f"{_type(content['schema']).replace(_ANY, 'bytes')} as `{media}`"
            for media, content in response.get("content", {}).items()
        ]
        if int(status) < 400:
            yield [code(status), " or ".join(kinds) or "no body"]
        else:
            refused[status] = response["description"]
    special = {status: text for status, text in refused.items() if text != MEANINGS.get(int(status))}
    yield from ([code(status), text] for status, text in special.items())
    if others := [code(status) for status in refused if status not in special]:
        yield [", ".join(others), "[as everywhere](#errors)"]


def _objects(described: Json) -> Iterator[str]:
    """Yield a section for each object in answers. The objects in requests are described with the routes."""
    schemas = described["components"]["schemas"]
    answered = {
        name
        for item in described["paths"].values()
        for operation in item.values()
        for name in _names(operation["responses"])
    }
    while more := {name for known in answered for name in _names(schemas[known])} - answered:
        answered |= more
    for name in sorted(answered):
        rows = [
            [code(field), _type(schema), _meaning(schema, missing=field not in schemas[name]["required"])]
            for field, schema in schemas[name]["properties"].items()
        ]
        yield f"### {name}\n\n" + table(["field", "type", "meaning"], rows)


def _names(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from [_name(value)] if key == "$ref" else _names(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _names(value)


def _type(schema: Json, *, objects: bool = True) -> str:
    """Return the type of a value in words. With ``objects``, an object is a link to its section."""
    plain = _without_null(schema)
    null = " or null" if plain is not schema and "default" not in schema and objects else ""
    return _plain_type(plain, objects=objects) + null


def _plain_type(schema: Json, *, objects: bool) -> str:
    if "$ref" in schema:
        return f"[{_name(schema['$ref'])}](#{_name(schema['$ref']).lower()})" if objects else "object"
    for one_of in ("oneOf", "anyOf"):
        if one_of in schema:
            return " or ".join(_type(each, objects=objects) for each in schema[one_of])
    if "const" in schema or "enum" in schema:
        return " or ".join(
            code(f"{value}") if value != "" else "empty" for value in schema.get("enum", [schema.get("const")])
        )
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_plural(_type(schema['items'], objects=objects))}"
    if kind == "object" and "additionalProperties" in schema:
        values = _plural(_type(schema["additionalProperties"], objects=objects))
        return "object" if values == _ANY else f"object of {values}"
    if kind == "string":
        return {"date-time": "time", "uuid": "UUID"}.get(schema.get("format", ""), "text")
    words = {
        "integer": "number",
        "number": "decimal number",
        "boolean": "`true` or `false`",
        "object": "object",
        "null": "null",
    }
    return words[kind] if kind is not None else _ANY


def _plural(words: str) -> str:
    return f"{words}s" if words in ("text", "object", "number") else words


def _meaning(schema: Json, *, required: bool = False, missing: bool = False) -> str:
    """Return the sentences on a value's meaning, limits and default."""
    plain = _without_null(schema)
    sentences = [part for part in (_sentence(plain.get("description", "")), _bounds(plain)) if part]
    if required:
        sentences.insert(0, "Required.")
    if missing:
        sentences.append("May be missing.")
    if "default" in schema:
        default = schema["default"]
        sentences.append(f"Default: {code(str(default).lower() if isinstance(default, bool) else str(default))}.")
    return " ".join(sentences)


def _sentence(text: str) -> str:
    text = re.sub(r"\b(true|false)(?=:)", r"`\1`", text)
    return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""


def _bounds(schema: Json) -> str:
    for keyword, unit in _MOST:
        if keyword in schema:
            return f"{schema[keyword]:,} {unit} at most."
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f"{least:,} to {most:,}."
    return f"{least:,} or more." if least is not None else ""


def _without_null(schema: Json) -> Json:
    """Return the part of a schema that describes values other than null; ``schema`` itself if it excludes null."""
    others = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
    return others[0] if len(others) == 1 else schema


def _resolved(schema: Json, described: Json) -> Json:
    found: Json = described["components"]["schemas"][_name(schema["$ref"])] if "$ref" in schema else schema
    return found


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]


def _statuses() -> Iterable[list[str]]:
    return [[code(str(status)), f"{meaning}."] for status, meaning in sorted({**MEANINGS, **_ELSEWHERE}.items())]


_ELSEWHERE = {
    405: "The path is right and the method is not; the header `Allow` has the methods",
    422: "Only for a create: the `Idempotency-Key` came with another body before",
}
