"""Which headers go on to the next hop, and what path routing does to the ones that name a path. Pure functions."""

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
# RFC 9110 forbids naming these in Connection; a client that does must not change what a body is or whom it is for.
_NEVER_OF_ONE_CONNECTION = frozenset({b"content-length", b"host", b"set-cookie", b"cookie", b"authorization"})
_UPGRADE = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_COOKIE_PATH = re.compile(rb"(;\s*path\s*=\s*\"?)([^;\"]*)", re.IGNORECASE)


def forwarded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """``headers`` without those that belong to one connection only (RFC 9110, section 7.6.1)."""
    found = list(headers)
    named = {token.strip().lower() for name, value in found if name == b"connection" for token in value.split(b",")}
    dropped = _HOP_BY_HOP | (named - _NEVER_OF_ONE_CONNECTION)
    return [(name, value) for name, value in found if name not in dropped]


def handshake_forwarded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers of a WebSocket handshake, or of its acceptance, which asks for the same on the next hop."""
    return [*forwarded((name.lower(), value) for name, value in headers), *_UPGRADE]


def accepts_websocket(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a ``101 Switching Protocols`` switches to what was asked for."""
    return [value.strip().lower() for name, value in headers if name.lower() == b"upgrade"] == [b"websocket"]


def unsendable(headers: Headers) -> str | None:
    """The name of the first header whose value has a control character, which no server may send."""
    return next((name.decode("latin-1") for name, value in headers if _CONTROL.search(value)), None)


def response_forwarded(headers: Iterable[tuple[bytes, bytes]], status: int) -> Headers:
    """The headers of a response, names in lower case, whose body is framed anew.

    A length that does not count beside ``Transfer-Encoding: chunked``, or that speaks of a body which a 204 or a 304
    has not, is left out.
    """
    lowered = [(name.lower(), value) for name, value in headers]
    unframed = status in (204, 304) or any(name == b"transfer-encoding" for name, _ in lowered)
    return [pair for pair in forwarded(lowered) if not (unframed and pair[0] == b"content-length")]


def request_framing(headers: Headers) -> bytes | None:
    """The ``content-length`` of a request, or None when its body, if any, is chunked."""
    lengths = {value for name, value in headers if name == b"content-length"}
    return next(iter(lengths), None)


def below_prefix(headers: Headers, prefix: bytes, authority: bytes) -> Headers:
    """Response headers of an application that does not know that it lives below a path prefix.

    A root-relative ``Location``, one that names the application's own host, and the ``Path`` of a cookie get the
    prefix; everything else stays.

    Parameters:
        headers: the response's headers, names in lower case.
        prefix: ``/kruise/<sandbox id>/<port>``.
        authority: the ``Host`` that the application saw.
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
        if value.lower().startswith(own.lower()) and value[len(own) : len(own) + 1] in (
            b"",
            b"/",
            b"?",
            b"#",
        ):
            return own + _below(value[len(own) :] or b"/", prefix)
    return _below(value, prefix)


def _below(path: bytes, prefix: bytes) -> bytes:
    if not path.startswith(b"/") or path.startswith(b"//"):
        return path
    if path == prefix or path.startswith(prefix + b"/"):
        return path  # the application does know
    return prefix + path
