"""Errors of the API: one exception, one body, ``{"code": <status>, "message": "...", "request_id": "..."}``.

The SDK parses ``code`` and ``message`` on every status that it knows (e2b 2.8.0 ... 2.63.0); without them it raises a
KeyError. ``request_id`` is a field of OpenKruise's manager, and the SDK ignores it.
"""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from ..request_log import current_request_id

DO_NOT_RETRY = {"Should-Retry": "false"}
"""For answers that leave open what was done: e2b 2.60.0 and later never repeat such a request, creates included."""
RETRY = {"Should-Retry": "true", "Retry-After": "1"}
"""For answers that say that nothing was done, and that it may be otherwise in a moment."""


class ApiError(Exception):
    """Answer the request with ``status`` and ``message``.

    Parameters:
        error_code: what kind of error it is, for programs.
        headers: headers of the answer.
    """

    def __init__(
        self, status: int, message: str, *, error_code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.error_code = error_code
        self.headers = headers


def sandbox_not_found(sandbox_id: str) -> ApiError:
    """Unknown, ended, or somebody else's: nobody is told which."""
    return ApiError(404, f"Sandbox \"{sandbox_id}\" doesn't exist or you don't have access to it")


def being_killed(sandbox_id: str) -> ApiError:
    """Its end has begun."""
    return ApiError(409, f'Sandbox "{sandbox_id}" is being killed')


def error_response(
    status: int, message: str, headers: dict[str, str] | None = None, error_code: str | None = None
) -> Response:
    """The body that every error of the API has."""
    body = {"code": status, "message": message, "error_code": error_code, "request_id": current_request_id()}
    present = {name: value for name, value in body.items() if value is not None}
    return JSONResponse(present, status_code=status, headers=headers)


async def on_api_error(request: Request, error: Exception) -> Response:
    """Handler for :class:`ApiError`."""
    assert isinstance(error, ApiError)
    return error_response(error.status, error.message, error.headers, error.error_code)


async def on_refused(request: Request, error: Exception) -> Response:
    """Handler for what a sandbox cannot do in its state: one that does not run is not there, as E2B says it."""
    not_found = sandbox_not_found(request.path_params["sandbox_id"])
    return error_response(not_found.status, not_found.message)


async def on_no_answer(request: Request, error: Exception) -> Response:
    """Handler for a sandbox whose program does not do what it was told."""
    return error_response(500, str(error), DO_NOT_RETRY)


async def on_no_space(request: Request, error: Exception) -> Response:
    """Handler for a full disk: nothing was done, and nothing will be until somebody removes something."""
    return error_response(507, str(error), DO_NOT_RETRY)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Handler for what the router raises: unknown paths and wrong methods."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))
    what = f"{request.method} {request.url.path}"
    message = {404: f"no such route: {what}", 405: f"method not allowed: {what}"}.get(error.status_code, error.detail)
    return error_response(error.status_code, message, headers)


def _allowed(request: Request) -> list[str]:
    """The methods of every route with that path; the router names those of the first one only."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    there = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in there for method in route.methods or ()})


async def on_crash(request: Request, error: Exception) -> Response:
    """Handler for what should not happen; the server logs it with its traceback."""
    return error_response(500, "Internal Server Error", DO_NOT_RETRY)
