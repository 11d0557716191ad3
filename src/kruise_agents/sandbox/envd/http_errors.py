"""Errors of the HTTP routes (not of the RPCs): JSON with a status and a message."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response


class HttpError(Exception):
    """A request that fails with a status and a message; routes raise it, the client gets both."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def error_response(status: int, message: str) -> Response:
    """The form of every error: ``{"code":404,"message":"..."}``."""
    return JSONResponse(
        {"code": status, "message": message},
        status_code=status,
        media_type="application/json; charset=utf-8",
        headers={"x-content-type-options": "nosniff"},
    )


async def on_http_error(_request: Request, error: Exception) -> Response:
    """Exception handler of the application for :class:`HttpError`."""
    assert isinstance(error, HttpError)
    return error_response(error.status, error.message)


async def on_routing_error(_request: Request, error: Exception) -> Response:
    """Exception handler of the application for paths and methods that it does not have."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return PlainTextResponse("404 page not found\n", status_code=404)
    return Response(status_code=error.status_code, headers=error.headers)


async def on_failure(_request: Request, error: Exception) -> Response:
    """Exception handler of the application for everything else; the server logs the traceback."""
    return error_response(500, f"{type(error).__name__}: {error}")


async def on_client_gone(_request: Request, _error: Exception) -> Response:
    """Exception handler of the application for bodies that end early; nobody reads the answer."""
    return Response(status_code=499)
