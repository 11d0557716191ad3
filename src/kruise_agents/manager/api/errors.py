"""The errors of the API: one exception class and one form of body.

The SDK expects ``code`` and ``message`` for every status it knows (e2b 2.8.0 ... 2.63.0) and raises KeyError without
them. ``request_id`` is a field of OpenKruise's manager, and the SDK ignores it.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from ..request_log import CLIENT_LEFT, current_request_id
from ..state.reserve import NoSpaceError

DO_NOT_RETRY = {"Should-Retry": "false"}
"""Headers that keep e2b 2.60.0 and later from retrying: a retry would usually fail too, or do the work twice."""
RETRY = {"Should-Retry": "true", "Retry-After": "1"}
"""Headers of errors that changed nothing. Another attempt may succeed after a second."""


class ErrorReply(TypedDict):
    """The JSON body of an error."""

    code: int
    message: str
    error_code: NotRequired[str]
    request_id: NotRequired[str]


class ApiError(Exception):
    """An error that is sent to the client. ``error_code`` names the kind of error for programs."""

    def __init__(
        self, status: int, message: str, *, error_code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.error_code = error_code
        self.headers = headers


def sandbox_not_found(sandbox_id: str) -> ApiError:
    """Return a 404 error, the same if the sandbox is unknown, ended, in a wrong state, or owned by another key."""
    return ApiError(404, f"Sandbox \"{sandbox_id}\" doesn't exist or you don't have access to it")


def error_response(
    status: int, message: str, headers: dict[str, str] | None = None, error_code: str | None = None
) -> Response:
    """Return the JSON answer for an error, with the id of the request that the running task serves."""
    body = ErrorReply(code=status, message=message)
    if error_code is not None:
        body["error_code"] = error_code
    if (request_id := current_request_id()) is not None:
        body["request_id"] = request_id
    return JSONResponse(body, status_code=status, headers=headers)


async def on_api_error(request: Request, error: Exception) -> Response:
    """Answer an :class:`ApiError`."""
    assert isinstance(error, ApiError)
    return error_response(error.status, error.message, error.headers, error.error_code)


async def on_refused(request: Request, error: Exception) -> Response:
    """Answer 404 if the sandbox's state rules out the operation, as E2B does for sandboxes that are not running."""
    not_found = sandbox_not_found(request.path_params["sandbox_id"])
    return error_response(not_found.status, not_found.message)


async def on_failure(request: Request, error: Exception) -> Response:
    """Answer 507 for a full disk, and 500 if a sandbox's program did not start or did not do what the manager asked."""
    return error_response(507 if isinstance(error, NoSpaceError) else 500, str(error), DO_NOT_RETRY)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer the error that the router raises for an unknown path (404) or a wrong method (405)."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))
    asked = f"{request.method} {request.url.path}"
    message = {404: f"no such route: {asked}", 405: f"method not allowed: {asked}"}.get(error.status_code, error.detail)
    return error_response(error.status_code, message, headers)


def _allowed(request: Request) -> list[str]:
    """Return the methods of all routes that match the path. The router's ``Allow`` covers only the first such route."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in matching for method in route.methods or ()})


async def on_client_left(request: Request, error: Exception) -> Response:
    """Return a status for the log and the metrics. The client has left in the middle of the body and gets no answer."""
    return Response(status_code=CLIENT_LEFT)


async def on_crash(request: Request, error: Exception) -> Response:
    """Answer 500 for an unexpected error. The server logs the traceback."""
    return error_response(500, "Internal Server Error", DO_NOT_RETRY)
