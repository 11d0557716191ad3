"""The OpenAPI document, made of the routes that are served and of what is said about them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any

from starlette.routing import Route

from .... import __version__
from ....protocol.names import API_KEY_HEADER
from .operations import OPERATIONS, Operation
from .schemas import SCHEMAS, Schema, reference

_CONVERTER = re.compile(r":[a-z]+\}")
_PARAMETER = re.compile(r"\{([a-z_]+)\}")
_OPEN_TO_EVERYBODY: list[dict[str, list[str]]] = []


def described(routes: Iterable[Route], refused: Iterable[Route]) -> Iterator[tuple[str, str, Operation]]:
    """Each method and path that has a description, with it.

    Parameters:
        routes: what the application serves, in its order.
        refused: those of them that are only refused.
    """
    only_refused = {id(route) for route in refused}
    seen: set[tuple[str, str]] = set()
    for route in routes:
        path = _CONVERTER.sub("}", route.path)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            if id(route) in only_refused:
                operation: Operation | None = Operation(f"{route.name}: not supported yet", {}, refusals=(400,))
            else:
                operation = OPERATIONS.get((method, path))
            if operation is not None and (method, path) not in seen:
                seen.add((method, path))
                yield method, path, operation


def document(routes: Iterable[Route], refused: Iterable[Route]) -> dict[str, Any]:
    """The document as JSON. Its server is wherever it was read from."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path, operation in described(routes, refused):
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kruise-agents sandbox-manager",
            "version": __version__,
            "description": "The control plane, as the E2B SDKs call it. Sandboxes are reached through the gateway.",
        },
        "servers": [{"url": "."}],
        "security": [{"ApiKey": []}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"ApiKey": {"type": "apiKey", "in": "header", "name": API_KEY_HEADER}},
        },
    }


def _operation(method: str, path: str, operation: Operation) -> dict[str, Any]:
    parameters = [_parameter(name, "path", {"type": "string"}) for name in _PARAMETER.findall(path)]
    parameters += [_parameter(name, "query", schema) for name, schema in operation.query.items()]
    parameters += [_parameter(name, "header", schema) for name, schema in operation.headers.items()]
    found: dict[str, Any] = {"summary": operation.summary, "parameters": parameters}
    if operation.private_only:
        found["description"] = "Only below /kruise/api."
    if operation.body is not None:
        found["requestBody"] = {"content": {"application/json": {"schema": operation.body}}}
    if operation.public:
        found["security"] = _OPEN_TO_EVERYBODY
    found["responses"] = {
        **{str(status): _response(status, schema) for status, schema in operation.answers.items()},
        **{str(status): _response(status, reference("Error")) for status in _refusals(operation)},
    }
    if path == "/health":  # as OpenKruise's manager says it, unless JSON is asked for
        found["responses"]["200"]["content"]["text/plain"] = {"schema": {"const": "OK"}}
    return found


def _refusals(operation: Operation) -> list[int]:
    reads_a_body = [408, 413] if operation.body is not None else []
    return sorted({*operation.refusals, *reads_a_body, *([] if operation.public else [401])})


def _parameter(name: str, place: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _response(status: int, schema: Schema | None) -> dict[str, Any]:
    found: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if schema is not None:
        found["content"] = {"application/json": {"schema": schema}}
    return found
