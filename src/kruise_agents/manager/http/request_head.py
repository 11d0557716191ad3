"""A strict reader of request heads, which accepts only plain HTTP/1.1 and 1.0 (RFC 9112).

Parsers differ in what they forgive, and request smuggling uses such differences. So each head is read once, by a
grammar that does not depend on the version of a library, and every later step gets only what was understood. Pure
functions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...protocol.addresses import MAX_PORT
from ...protocol.names import API_KEY_HEADER, SANDBOX_ID_HEADER, SANDBOX_PORT_HEADER

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/([0-9]\.[0-9])")
_NAME = re.compile(_TOKEN)
_NEVER_IN_A_HEAD = re.compile(rb"[^\t\r\n\x20-\x7e\x80-\xff]|(?<!\r)\n|\r(?!\n|\Z)")
_TARGET = re.compile(rb"(?:[hH][tT][tT][pP][sS]?://([^/?#]*))?(/[^#]*|(?<=[^/])(?:\?[^#]*)?)")
_AUTHORITY = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]\-]*")
_HOST_AND_PORT = re.compile(rb"(?:[A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_ONCE = (
    *(name.lower().encode() for name in (SANDBOX_ID_HEADER, SANDBOX_PORT_HEADER, API_KEY_HEADER)),
    b"content-length",
    b"transfer-encoding",
)
_FRAMING = (b"connection", b"content-length", b"transfer-encoding")


class HeadRefusedError(Exception):
    """A request head that is refused, with the ``status`` and the message of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request's head as it was understood.

    ``target`` begins with ``/`` and includes the query. Header names are in lower case. ``length`` is the length of the
    body in bytes, or None for a chunked body. ``handshake`` is true for the handshake of a WebSocket.
    """

    method: bytes
    target: bytes
    version: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    length: int | None
    handshake: bool

    def framing(self) -> bytes:
        """Return a head with only the headers that decide where the request ends and whether another may follow."""
        lines = [b"%b %b HTTP/%b" % (self.method, self.target, self.version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] in _FRAMING]
        return b"\r\n".join([*lines, b"", b""])

    @property
    def expects_continue(self) -> bool:
        return any(name == b"expect" and value.lower() == b"100-continue" for name, value in self.headers)


def check_bytes(data: bytes | bytearray, start: int) -> None:
    """Check a head's bytes from ``start`` on. Unfinished heads are checked too, as a malformed head may never end.

    Control characters other than tabs, and line ends that are not CR LF, raise HeadRefusedError 400.
    """
    if _NEVER_IN_A_HEAD.search(data, max(start - 1, 0)):
        raise HeadRefusedError(400, "this is not a well-formed HTTP/1.1 request")


def read_head(data: bytes, *, connects: bool = False) -> RequestHead:
    """Parse the complete head of a request, with the empty line at the end.

    Raises HeadRefusedError if the head is malformed or ambiguous, or asks for what this server lacks. The method
    CONNECT is accepted if ``connects``; its target is ``host:port``, which Python up to 3.11 does not repeat as
    ``Host``. An ``Upgrade`` header is left out, unless the request is the handshake of a WebSocket (RFC 9110,
    section 7.8).
    """
    check_bytes(data, 0)
    first, *lines = data[:-4].split(b"\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if request is None:
        raise HeadRefusedError(400, "this is not a well-formed HTTP/1.1 request")
    method, target, version = request.groups()
    if version not in (b"1.1", b"1.0"):
        raise HeadRefusedError(505, "this server speaks HTTP/1.1")
    if method == b"CONNECT" and not connects:
        raise HeadRefusedError(405, "this server is no proxy; the method CONNECT is not served")
    headers = _headers(lines)
    length = _body_length(headers, version)
    if method == b"CONNECT":
        if _HOST_AND_PORT.fullmatch(target) is None or int(target.rpartition(b":")[2]) > MAX_PORT or length != 0:
            raise HeadRefusedError(400, "a CONNECT has a target such as your.domain:443, and no body")
        return RequestHead(method, target, version, tuple(headers), length, handshake=False)
    origin = _origin_form(target, _host(headers))
    handshake = version == b"1.1" and method == b"GET" and length == 0 and _asks_for_websocket(headers)
    if not handshake:
        headers = [header for header in headers if header[0] != b"upgrade"]
    return RequestHead(method, origin, version, tuple(headers), length, handshake)


def _headers(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    if len(lines) > MAX_HEADERS:
        raise HeadRefusedError(431, f"the request has {len(lines)} headers; {MAX_HEADERS} are served")
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or _NAME.fullmatch(name) is None:
            raise HeadRefusedError(400, f"header {len(headers) + 1} is not 'name: value' on one line")
        headers.append((name.lower(), value.strip(b" \t")))
    names = [name for name, _ in headers]
    for name in _ONCE if len(set(names)) < len(names) else ():
        if names.count(name) > 1:
            raise HeadRefusedError(400, f"the header {name.decode()} may stand in a request once")
    return headers


def _host(headers: list[tuple[bytes, bytes]]) -> bytes:
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        raise HeadRefusedError(400, f"API Error: a request needs one Host header, this one has {len(hosts)}")
    if _AUTHORITY.fullmatch(hosts[0]) is None:
        raise HeadRefusedError(400, "API Error: the Host header is not a host, or host:port")
    return hosts[0]


def _origin_form(target: bytes, host: bytes) -> bytes:
    """Return ``/path?query`` from ``/path?query`` or ``http://host/path?query``."""
    if not target.isascii():
        raise HeadRefusedError(400, "the request target has characters that must be percent-encoded")
    found = _TARGET.fullmatch(target)
    if found is None:
        raise HeadRefusedError(400, "the request target must be a path, such as /kruise/api/sandboxes")
    if found[1] is not None and found[1].lower() != host.lower():
        raise HeadRefusedError(400, "the request target names another host than the Host header")
    return found[2] if found[2].startswith(b"/") else b"/" + found[2]


def _body_length(headers: list[tuple[bytes, bytes]], version: bytes) -> int | None:
    length = next((value for name, value in headers if name == b"content-length"), None)
    coding = next((value for name, value in headers if name == b"transfer-encoding"), None)
    if coding is not None:
        if length is not None or version == b"1.0":
            raise HeadRefusedError(400, "a request body has a Content-Length or, in HTTP/1.1, is chunked; not both")
        if coding.lower() != b"chunked":
            raise HeadRefusedError(501, "the only Transfer-Encoding that is served is 'chunked'")
        return None
    if length is None:
        return 0
    if _LENGTH.fullmatch(length) is None:
        raise HeadRefusedError(400, "the Content-Length is not a number of bytes")
    return int(length)


def _asks_for_websocket(headers: list[tuple[bytes, bytes]]) -> bool:
    offered = [value.lower() for name, value in headers if name == b"upgrade"]
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    return offered == [b"websocket"] and b"upgrade" in named
