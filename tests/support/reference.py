"""A second implementation of the routing of requests, written from the tables of the private protocol.

The implementation shares no code with the manager, so that fuzz tests can compare the two. It has the manager's
deliberate differences from the tables: a prefix must be whole path segments, and a port must consist of digits.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from enum import Enum, auto

import h11

NOBODY = ("nobody",)
IMPOSSIBLE_PORT = ("impossible port",)
Destination = tuple[str, ...] | tuple[str, str, int, str]
_ID_IN_A_HOST = set(string.ascii_letters + string.digits + "-")


def destination(authority: str, target: str, sandbox_id: str | None, sandbox_port: str | None) -> Destination:
    """Return ``("api", path)``, ``("sandbox", id, port, path)``, :data:`NOBODY` or :data:`IMPOSSIBLE_PORT`."""
    if not target.startswith("/"):
        return NOBODY
    path, mark, query = target.partition("?")
    segments = path[1:].split("/")
    if segments[0] == "kruise":
        if segments[1:2] == ["api"]:
            return ("api", "/" + "/".join(segments[2:]) + mark + query)
        if len(segments) < 3 or not segments[1] or not segments[2]:
            return NOBODY
        return _sandbox(segments[1], segments[2], "/" + "/".join(segments[3:]) + mark + query)
    if authority.lower()[:4] == "api.":
        return ("api", target)
    if sandbox_id:
        return _sandbox(sandbox_id, sandbox_port or "49983", target)
    label, dot, _ = authority.partition(".")
    port, dash, name = label.partition("-")
    if dot and dash and name and set(name) <= _ID_IN_A_HOST and port.isdecimal():
        return _sandbox(name, port, target)
    return NOBODY


def _sandbox(sandbox_id: str, port: str, path: str) -> Destination:
    digits = port.removeprefix("-")
    if not digits or len(digits) > 18 or not set(digits) <= set(string.digits):
        return NOBODY
    if not 0 < int(port) < 65536:
        return IMPOSSIBLE_PORT
    return ("sandbox", sandbox_id, int(port), path)


def requests_in(data: bytes) -> tuple[list[tuple[h11.Request, bytes]], bool]:
    """Return the requests that h11 finds in the bytes of one connection, each with its body.

    The second value is True if a server would wait for the rest of another request.
    """
    found: list[tuple[h11.Request, bytes]] = []
    while True:
        while data.startswith(b"\r\n"):  # RFC 9112, section 2.2
            data = data[2:]
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        connection.receive_data(data)
        request, body, more = _one_request(connection)
        if request is not None:
            found.append((request, body))
        if more is not _Next.REQUEST:
            return found, more is _Next.BYTES
        data = connection.trailing_data[0]


class _Next(Enum):
    REQUEST = auto()
    BYTES = auto()
    NOTHING = auto()


def _one_request(connection: h11.Connection) -> tuple[h11.Request | None, bytes, _Next]:
    request, body = None, b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return request, body, _Next.NOTHING
        if event is h11.NEED_DATA:
            begun = request is not None or bool(connection.trailing_data[0])
            return request, body, _Next.BYTES if begun else _Next.NOTHING
        if isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            status = 405 if request is not None and request.method == b"CONNECT" else 200
            connection.send(h11.Response(status_code=status, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            return request, body, _Next.REQUEST if connection.our_state is h11.DONE else _Next.NOTHING


def header(request: h11.Request, name: bytes) -> str | None:
    values: Sequence[bytes] = [value for key, value in request.headers if key == name]
    return values[0].decode("latin-1") if values else None
