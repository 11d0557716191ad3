"""The headers that the gateway forwards, with paths corrected for path routing.

All functions are pure, and expect header names in lower case.
"""

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
# What these headers say counts for a whole origin or host, and for longer than a page is open.
_OF_THE_ORIGIN = frozenset(
    {
        b"alt-svc",
        b"clear-site-data",
        b"expect-ct",
        b"nel",
        b"public-key-pins",
        b"public-key-pins-report-only",
        b"report-to",
        b"sec-session-registration",
        b"secure-session-registration",
        b"service-worker-allowed",
        b"set-login",
        b"strict-transport-security",
        b"use-as-dictionary",
    }
)
_UPGRADE = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_COMPLETE = re.compile(rb"(https?:|)//([^/?#\\]*)((?:[/?#].*)?)", re.IGNORECASE)
_REFRESH = re.compile(rb"([\d.]+(?:\s*[;,]\s*|\s+)(?:url\s*=\s*)?[\"']?)([^\"']*)(.*)", re.IGNORECASE)
_AUTHORITY = re.compile(rb"(.*?)(?::([0-9]*))?")
_DEFAULT_PORTS = {b"http:": b"80", b"https:": b"443"}


def forwarded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return ``headers`` without hop-by-hop headers (RFC 9110, section 7.6.1)."""
    pairs = list(headers)
    named = {token.strip().lower() for name, value in pairs if name == b"connection" for token in value.split(b",")}
    dropped = _HOP_BY_HOP | (named - _NEVER_OF_ONE_CONNECTION)
    return [(name, value) for name, value in pairs if name not in dropped]


def handshake_forwarded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers of a WebSocket handshake, or of its acceptance, for the next hop."""
    return [*forwarded(headers), *_UPGRADE]


def accepts_websocket(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a ``101 Switching Protocols`` with these headers switches to a WebSocket."""
    return [value.strip().lower() for name, value in headers if name == b"upgrade"] == [b"websocket"]


def unsendable(headers: Headers) -> str | None:
    """Return the name of the first header that cannot be sent, because its value has a control character; or None."""
    return next((name.decode("latin-1") for name, value in headers if _CONTROL.search(value)), None)


def response_forwarded(headers: Headers, status: int) -> Headers:
    """Return the headers of a response for the client.

    A 204, a 304 and a response with ``Transfer-Encoding`` lose ``Content-Length``, which is not their body's length.
    Of several equal lengths, one is left, because some proxies refuse two.
    """
    unframed = status in (204, 304) or any(name == b"transfer-encoding" for name, _ in headers)
    passed = forwarded(headers)
    lengths = [pair for pair in passed if pair[0] == b"content-length"]
    return [pair for pair in passed if pair[0] != b"content-length"] + ([] if unframed else lengths[:1])


def below_prefix(headers: Headers, prefix: bytes, authority: bytes, *, shared: bool) -> Headers:
    """Return response headers that lead the client to the application's own pages, and count for these alone.

    In ``Location``, ``Content-Location`` and ``Refresh``, an address on the application's own host (``authority``)
    becomes a path, so that the client keeps its scheme: most applications behind TLS do not know that clients use
    https. An https address is the exception: it stays complete, because an application may mean to lead its client from
    http to https. The paths in these headers get ``prefix``, such as ``/kruise/abc/3000``, unless they have the prefix
    already. Addresses of other hosts stay as they are.

    With ``shared``, other sandboxes and the API are on the same origin. Then cookies count below the prefix and on this
    host only, and headers that would count for the whole origin are left out.
    """
    return [
        (
            name,
            _confined(value, prefix)
            if shared and name == b"set-cookie"
            else _led_below(name, value, prefix, authority),
        )
        for name, value in headers
        if not (shared and name in _OF_THE_ORIGIN)
    ]


def above_prefix(headers: Headers, prefix: bytes, authority: bytes) -> Headers:
    """Return response headers for a client whose address names the sandbox without ``prefix``.

    This undoes what a server at ``authority`` does to these headers when the same application is reached with
    ``prefix`` in the path. An address that the client cannot reach without the prefix stays as it is.
    """
    return [
        (name, _released(value, prefix) if name == b"set-cookie" else _led_above(name, value, prefix, authority))
        for name, value in headers
    ]


def _led_above(name: bytes, value: bytes, prefix: bytes, authority: bytes) -> bytes:
    if name in (b"location", b"content-location"):
        return _own_path(value, prefix, authority)
    if name == b"refresh" and (parts := _REFRESH.fullmatch(value)):
        return parts[1] + _own_path(parts[2], prefix, authority) + parts[3]
    return value


def _own_path(value: bytes, prefix: bytes, authority: bytes) -> bytes:
    parts = _COMPLETE.fullmatch(value)
    path = value
    if parts is not None:
        if _host_and_port(parts[2], parts[1]) != _host_and_port(authority, parts[1]):
            return value
        path = parts[3] if parts[3].startswith(b"/") else b"/" + parts[3]
    return _rooted(_above(path, prefix))


def _above(path: bytes, prefix: bytes) -> bytes:
    if prefix and path == prefix:
        return b"/"
    return path.removeprefix(prefix) if path.startswith(prefix + b"/") else path


def _released(cookie: bytes, prefix: bytes) -> bytes:
    pair, *attributes = cookie.split(b";")
    for index, attribute in enumerate(attributes):
        name, equals, value = attribute.partition(b"=")
        if name.strip().lower() == b"path":
            attributes[index] = name + equals + _above(value.strip(b' \t"'), prefix)
    return b";".join([pair, *attributes])


def _rooted(path: bytes) -> bytes:
    # A path such as //other.example names a host, and so it does for browsers with a backslash or a tab in between.
    return b"/." + path if path[:1] == b"/" and path[1:2] in (b"/", b"\\", b"\t") else path


def _led_below(name: bytes, value: bytes, prefix: bytes, authority: bytes) -> bytes:
    if name in (b"location", b"content-location"):
        return _reference(value, prefix, authority)
    if name == b"refresh" and (parts := _REFRESH.fullmatch(value)):
        return parts[1] + _reference(parts[2], prefix, authority) + parts[3]
    return value


def _confined(cookie: bytes, prefix: bytes) -> bytes:
    pair, *attributes = cookie.split(b";")
    path, kept = b"", []
    for attribute in attributes:
        name, _, value = attribute.partition(b"=")
        match name.strip().lower():
            case b"path":  # the last one counts, as in browsers
                path = value.strip(b' \t"')
            case b"domain":
                pass  # such a cookie would be sent to other hosts too
            case _:
                kept.append(attribute)
    path = _below(path, prefix) if path.startswith(b"/") else prefix
    return b";".join([pair, *([b" Path=" + path] if path else []), *kept])


def _reference(value: bytes, prefix: bytes, authority: bytes) -> bytes:
    parts = _COMPLETE.fullmatch(value)
    if parts is None:
        return value if value.startswith(b"//") else _below(value, prefix)
    scheme, host, path = parts.groups()
    if not authority or _host_and_port(host, scheme) != _host_and_port(authority, scheme):
        return value
    if not path.startswith(b"/"):
        path = b"/" + path
    path = _below(path, prefix)
    if scheme.lower() == b"https:":
        return scheme + b"//" + host + path
    return _rooted(path)


def _host_and_port(authority: bytes, scheme: bytes) -> tuple[bytes, bytes]:
    parts = _AUTHORITY.fullmatch(authority.lower())
    if parts is None:
        return authority.lower(), b""
    return parts[1], parts[2] or _DEFAULT_PORTS.get(scheme.lower(), b"")


def _below(path: bytes, prefix: bytes) -> bytes:
    if not path.startswith(b"/"):
        return path
    if path == prefix or path.startswith(prefix + b"/"):
        return path  # the application knows the prefix
    return prefix + path
