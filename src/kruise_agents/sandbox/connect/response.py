"""Building blocks of responses: content types, JSON encoding, and whole HTTP responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from starlette.types import Send

from .errors import ConnectError

UNARY_TYPE = "application/json"
# Without parameters: e2b 2.63.0 refuses a stream whose content type has any.
STREAM_TYPE = "application/connect+json"

Json: TypeAlias = Mapping[str, Any]
_Header = tuple[bytes, bytes]
_encode = json.JSONEncoder(separators=(",", ":")).encode


def encode_json(message: Json) -> bytes:
    """Return a message as JSON in ASCII, with all other characters escaped."""
    return _encode(message).encode("ascii")


async def send_unary(send: Send, message: Json, status: int = 200) -> None:
    """Send a whole response with one JSON object."""
    await _send(send, status, encode_json(message), (b"content-type", UNARY_TYPE.encode()))


async def send_unary_error(send: Send, error: ConnectError, status: int | None = None) -> None:
    """Send a whole response with an error. ``status`` replaces the HTTP status of the error's code."""
    await send_unary(send, error.to_json(), status or error.code.http_status)


async def send_plain(send: Send, status: int, text: str, *headers: _Header) -> None:
    """Send a whole response in plain text, for requests that do not follow this protocol."""
    body = f"{text}\n".encode("ascii", "backslashreplace")
    await _send(send, status, body, (b"content-type", b"text/plain; charset=utf-8"), *headers)


async def _send(send: Send, status: int, body: bytes, *headers: _Header) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
