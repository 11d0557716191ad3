"""Parser of requests, which finds the port of a sandbox or the API route that a request is meant for.

The parser reads the raw request target, before any percent-decoding and without normalising ``..`` or ``//``, as
OpenKruise's manager does. That manager also accepts paths such as ``/kruised``, ports such as ``+3000``, and empty
sandbox IDs; this parser does not. Only this parser accepts ``/kruise/<id>/3000?x=1``.
"""

from __future__ import annotations

import re

from ..errors import AddressError, PortError
from .addresses import (
    API_HOST_PREFIX,
    API_PREFIX,
    EMBEDDED_ID,
    MAX_PORT,
    PREFIX,
    ApiTarget,
    SandboxTarget,
    Target,
    is_private_api_path,
    is_private_path,
)
from .names import ENVD_PORT

_OWN_HOST = re.compile(rf"\d+-{EMBEDDED_ID}\.")
_NATIVE_HOST = re.compile(r"(\d+)-([a-zA-Z0-9\-]+)\.")
_NUMBER = re.compile(r"-?[0-9]{1,18}")


def parse(
    authority: str,
    target: str,
    sandbox_id: str | None = None,
    sandbox_port: str | None = None,
) -> Target:
    """Return the port of a sandbox, or the API route, that a request is meant for.

    A native host with an ID of the embedded manager decides alone. Its origin in a browser belongs to one port of one
    sandbox, so it serves nothing else. Otherwise the first of these that is present decides: a private path
    (``/kruise/...``), the native API host (``api.<domain>``), the header with a sandbox ID, the native sandbox host
    (``<port>-<id>.<domain>``).

    Args:
        authority: The ``Host`` header (or HTTP/2 ``:authority``), as sent.
        target: The path and the query of the request, as sent.
        sandbox_id: The value of ``E2b-Sandbox-Id``; empty counts as absent.
        sandbox_port: The value of ``E2b-Sandbox-Port``; absent or empty means envd's port, 49983.

    Raises:
        PortError: The port is a number outside 1 ... 65535. A number of more than 18 digits raises AddressError.
        AddressError: The port is not a number, or the request names neither a port of a sandbox nor an API route.
    """
    if target.startswith("/") and is_own_host(authority):
        return native_sandbox(authority, target)
    if is_private_api_path(target):
        return ApiTarget(_rooted(target[len(API_PREFIX) :]), private=True)
    if is_private_path(target):
        return _private_sandbox(target)
    if not target.startswith("/"):
        raise AddressError(f"request target {target!r} is not a path")
    if authority.lower().startswith(API_HOST_PREFIX):
        return ApiTarget(target, private=False)
    if sandbox_id:
        port = _port(sandbox_port, "sandbox port header") if sandbox_port else ENVD_PORT
        return SandboxTarget(sandbox_id, port, target)
    return native_sandbox(authority, target)


def is_own_host(authority: str) -> bool:
    """Return whether a host is the native host of a port of a sandbox that the embedded manager has made."""
    return _OWN_HOST.match(authority) is not None


def is_native_host(authority: str) -> bool:
    """Return whether a host has the form of the native host of a port of a sandbox, of any manager."""
    return _NATIVE_HOST.match(authority) is not None


def native_sandbox(authority: str, target: str) -> SandboxTarget:
    """Return the port of a sandbox that a native host names. Raises PortError or AddressError."""
    match = _NATIVE_HOST.match(authority)
    if match is None:
        raise AddressError(f"host {authority!r} names no sandbox and {target!r} is no private path")
    return SandboxTarget(match[2], _port(match[1], "port in the host"), target)


def _private_sandbox(target: str) -> SandboxTarget:
    path, mark, query = target.removeprefix(PREFIX).partition("?")
    sandbox_id, _, rest = path[1:].partition("/")
    port_text, slash, rest = rest.partition("/")
    if not sandbox_id or not port_text:
        raise AddressError(f"{target!r} is not {PREFIX}/<sandbox id>/<port>/...")
    port = _port(port_text, "port in the path")
    return SandboxTarget(sandbox_id, port, f"/{rest if slash else ''}{mark}{query}")


def _port(text: str, place: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise AddressError(f"invalid {place} value: {text}")
    port = int(text)
    if not 1 <= port <= MAX_PORT:
        raise PortError(port)
    return port


def _rooted(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"
