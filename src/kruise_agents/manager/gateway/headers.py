"""The headers that the gateway forwards, with paths corrected for path routing. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# RFC 9110 forbids naming these headers in Connection. They are forwarded even then, because without them the next hop
# would see another body, another recipient or another sender.
_NEVER_OF_ONE_CONNECTION = frozenset({b"content-length", b"host", b"set-cookie", b"cookie", b"authorization"})
_UPGRADE = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_COOKIE_PATH = re.compile(rb"(;\s*path\s*=\s*\"?)([^;\"]*)", re.IGNORECASE)


def forwarded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return ``headers`` without hop-by-hop headers (RFC 9110, section 7.6.1)."""
    pairs = list(headers)
    named = {token.strip().lower() for name, value in pairs if name == b"connection" for token in value.split(b",")}
    dropped = _HOP_BY_HOP | (named - _NEVER_OF_ONE_CONNECTION)
    return [(name, value) for name, value in pairs if name not in dropped]


def handshake_forwarded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers of a WebSocket handshake, or of its acceptance, for the next hop."""
    return [*forwarded((name.lower(), value) for name, value in headers), *_UPGRADE]


def accepts_websocket(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a ``101 Switching Protocols`` with these headers switches to a WebSocket."""
    return [value.strip().lower() for name, value in headers if name.lower() == b"upgrade"] == [b"websocket"]


def unsendable(headers: Headers) -> str | None:
    """Return the name of the first header that cannot be sent, because its value has a control character; or None."""
    return next((name.decode("latin-1") for name, value in headers if _CONTROL.search(value)), None)


def response_forwarded(headers: Iterable[tuple[bytes, bytes]], status: int) -> Headers:
    """Return the headers of a response for the client, with names in lower case.

    A 204, a 304 and a response with ``Transfer-Encoding`` lose ``Content-Length``, which is not their body's length.
    """
    lowered = [(name.lower(), value) for name, value in headers]
    unframed = status in (204, 304) or any(name == b"transfer-encoding" for name, _ in lowered)
    return [pair for pair in forwarded(lowered) if not (unframed and pair[0] == b"content-length")]


def below_prefix(headers: Headers, prefix: bytes, authority: bytes) -> Headers:
    """Return response headers with ``prefix``, such as ``/kruise/abc/3000``, added to the application's paths.

    A root-relative ``Location``, a ``Location`` on the application's own host (``authority``), and the ``Path`` of a
    cookie get the prefix, unless the prefix is there already. The names of ``headers`` must be in lower case.
    """
    return [(name, _rewritten(name, value, prefix, authority)) for name, value in headers]


def _rewritten(name: bytes, value: bytes, prefix: bytes, authority: bytes) -> bytes:
    if name == b"location":
        return _location(value, prefix, authority)
    if name == b"set-cookie":
        return _COOKIE_PATH.sub(lambda match: match[1] + _below(match[2].strip(), prefix), value)
    return value


def _location(value: bytes, prefix: bytes, authority: bytes) -> bytes:
    for scheme in (b"http://", b"https://"):
        own = scheme + authority
        after = value[len(own) : len(own) + 1]
        if value.lower().startswith(own.lower()) and after in (b"", b"/", b"?", b"#"):
            return own + _below(value[len(own) :] or b"/", prefix)
    return _below(value, prefix)


def _below(path: bytes, prefix: bytes) -> bytes:
    if not path.startswith(b"/") or path.startswith(b"//"):
        return path
    if path == prefix or path.startswith(prefix + b"/"):
        return path  # the application knows the prefix
    return prefix + path
