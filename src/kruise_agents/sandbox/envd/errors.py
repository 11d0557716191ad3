"""Errors of envd's HTTP routes, and the wording of operating-system errors."""

from __future__ import annotations

import errno

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

# ENOSPC: no free bytes or inodes. EDQUOT: a used-up quota. EFBIG: the sandbox's disk limit (``RLIMIT_FSIZE``).
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class HttpError(Exception):
    """The failure of a request, with an HTTP status and a message for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def error_response(status: int, message: str) -> Response:
    """Return an error response in envd's form, ``{"code":404,"message":"..."}``."""
    return JSONResponse(
        {"code": status, "message": message},
        status_code=status,
        media_type="application/json; charset=utf-8",
        headers={"x-content-type-options": "nosniff"},
    )


async def on_http_error(_request: Request, error: Exception) -> Response:
    """Answer an :class:`HttpError`."""
    assert isinstance(error, HttpError)
    return error_response(error.status, error.message)


async def on_routing_error(_request: Request, error: Exception) -> Response:
    """Answer a request for an unknown path, or with a method that the path does not support."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return PlainTextResponse("404 page not found\n", status_code=404)
    return Response(status_code=error.status_code, headers=error.headers)


async def on_failure(_request: Request, error: Exception) -> Response:
    """Answer 500 after an exception that has no handler of its own. The server logs the traceback."""
    return error_response(500, f"{type(error).__name__}: {error}")


async def on_client_gone(_request: Request, _error: Exception) -> Response:
    """Answer a request whose client left before the end of the body. Nobody reads the answer."""
    return Response(status_code=499)


def describe(action: str, path: str, error: OSError) -> str:
    """Return an error's text in Go's form, ``stat /x: no such file or directory``."""
    return f"{action} {path}: {reason(error)}"


def reason(error: OSError) -> str:
    """Return an error's text in Go's spelling, ``no such file or directory``."""
    return (error.strerror or str(error)).lower()
