"""Declarations of routes: path, credentials, request and answers of each handler.

Each declaration stands at its handler. The application, the check of credentials (``auth.py``) and the OpenAPI document
(``openapi.py``) all read these declarations.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, ClassVar, TypeVar, get_type_hints

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .reading import read_body, read_fields, read_parameters, read_query

_PARTS = frozenset({"query", "headers", "body", "fields"})
Handler = Callable[..., Awaitable[Any]]
_H = TypeVar("_H", bound=Handler)


class Access(enum.Enum):
    """The credentials that a route asks for."""

    KEY = "an API key"
    VOLUME_TOKEN = "the token of the volume in the path"  # noqa: S105 - a description
    PUBLIC = "none"


class Topic(enum.Enum):
    """The groups of routes in the OpenAPI document and in the reference, in the order in which they appear there."""

    SANDBOXES = "Sandboxes"
    OBSERVATION = "Metrics and logs of sandboxes"
    SNAPSHOTS = "Snapshots and forks"
    TEMPLATES = "Templates"
    VOLUMES = "Volumes"
    VOLUME_CONTENTS = "Contents of volumes"
    SECRETS = "Secrets"
    KEYS = "API keys and teams"
    MANAGER = "The manager"
    NOT_SERVED = "Not served"


@dataclass(frozen=True, slots=True)
class Operation:
    """The declaration of a route.

    Args:
        answers: the type of the answer for each status of success: a ``TypedDict``, a list, None for no body, or a
            dict from media types to types if the answer is not always JSON.
        refusals: the statuses of errors, each with its meaning at this route; an empty text stands for the general
            meaning (``MEANINGS`` in ``openapi.py``). The OpenAPI document adds 401, 408 and 413 itself.
        reads: the types of the handler's parameters ``query``, ``headers``, ``body`` and ``fields``, by these names.
    """

    method: str
    paths: Sequence[str]
    summary: str
    answers: Mapping[int, Any]
    refusals: Mapping[int, str] = field(default_factory=dict)
    access: Access = Access.KEY
    note: str = ""
    reads: Mapping[str, Any] = field(default_factory=dict)


def operation(
    route: str,
    summary: str,
    refusals: Iterable[int] = (),
    *,
    meanings: Mapping[int, str] | None = None,
    status: int = 200,
    answers: Mapping[int, Any] | None = None,
    also: str | None = None,
    access: Access = Access.KEY,
    note: str = "",
) -> Callable[[_H], _H]:
    """Declare a method of a :class:`Resource` as the handler of a route.

    The handler's signature completes the declaration. The types of its parameters ``query``, ``headers`` and ``body``
    declare the request (``reading.py``). A handler with ``body`` may have a parameter ``fields``, which gets the JSON
    object of the body. The return type declares the JSON of the answer; the return type None declares a 204 answer.

    Args:
        route: method and path, such as ``GET /volumes``.
        refusals: statuses of errors that have their general meaning at this route.
        meanings: statuses of errors that have a meaning of their own at this route.
        status: the status of an answer with JSON.
        answers: the types of the answers by status, for a handler that returns a :class:`Response`.
        also: a second path with the same handler.
    """
    method, path = route.split(" ")
    paths = (path,) if also is None else (path, also)

    def declare(handler: _H) -> _H:
        hints = get_type_hints(handler)
        reads = {part: hint for part, hint in hints.items() if part in _PARTS}
        refused = {**dict.fromkeys(refusals, ""), **(meanings or {})}
        answered = {204: None} if hints["return"] is NoneType else {status: hints["return"]}
        declared = Operation(method, paths, summary, answers or answered, refused, access, note, reads)
        vars(handler)["operation"] = declared
        return handler

    return declare


class ApiRoute(Route):
    """A route with the :class:`Operation` that declares it."""

    def __init__(
        self,
        path: str,
        declaration: Operation,
        endpoint: Callable[[Request], Awaitable[Response]],
        topic: Topic,
    ) -> None:
        super().__init__(path, endpoint, methods=[declaration.method])
        self.operation = declaration
        self.topic = topic


class Resource:
    """The handlers for one kind of thing, such as volumes. Methods that :func:`operation` decorates become routes."""

    topic: ClassVar[Topic]

    def routes(self) -> list[ApiRoute]:
        declared = [member for member in vars(type(self)).values() if hasattr(member, "operation")]
        return [
            ApiRoute(path, handler.operation, self._endpoint(handler), self.topic)
            for handler in declared
            for path in handler.operation.paths
        ]

    async def call(self, handler: Handler, request: Request, reads: Mapping[str, Any]) -> Any:
        return await handler(self, request, **reads)

    def _endpoint(self, handler: Any) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            declared: Operation = handler.operation
            answer = await self.call(handler, request, await _read(request, declared.reads))
            if isinstance(answer, Response):
                return answer
            (status,) = declared.answers
            return Response(status_code=status) if answer is None else JSONResponse(answer, status)

        return endpoint


async def _read(request: Request, declared: Mapping[str, Any]) -> dict[str, Any]:
    reads: dict[str, Any] = {}
    if "query" in declared:
        reads["query"] = read_parameters(declared["query"], read_query(request))
    if "headers" in declared:
        reads["headers"] = read_parameters(declared["headers"], request.headers)
    if "body" in declared:
        fields = await read_fields(request)
        reads["body"] = read_body(declared["body"], fields)
        if "fields" in declared:
            reads["fields"] = fields
    return reads
