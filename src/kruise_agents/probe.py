"""A raw request to a manager, without the SDK: how far it came, what was in its way, and who answered.

The request goes over a connection of its own, directly or through a proxy. The SDK and its settings play no part, so a
failure shown here is one of the way to the manager or of the manager.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any
from urllib.parse import unquote, urlsplit

from .protocol.addresses import API_PREFIX, Scheme
from .protocol.domains import Domain

HEALTH = f"{API_PREFIX}/health"
DEFAULT_PORTS: dict[Scheme, int] = {"https": 443, "http": 80}
GATEWAY_ERRORS = (502, 503, 504)
"""The statuses of a reverse proxy whose server behind it does not answer."""
_MOST_BYTES = 65536
_HEAD_OF_ALERT = b"\x15\x03"
"""The first bytes of a TLS alert record."""
_AUTHORITY = re.compile(rb"\x06\x03\x55\x1d\x13(?:\x01\x01\xff)?\x04.\x30.\x01\x01\xff", re.DOTALL)
"""The extension basicConstraints with CA:TRUE in a certificate (RFC 5280, 4.2.1.9)."""
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
"""OpenSSL's reasons when a TLS client gets text for an answer."""
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for."""
_STRICT_CODES = range(79, 95)
"""OpenSSL's codes for certificates that only the strict checks of Python 3.13 refuse (x509_vfy.h of OpenSSL 3)."""


class Trouble(StrEnum):
    """The reason why a request got no answer that counts."""

    NAME = "the name has no address"
    REFUSED = "the connection was refused"
    UNREACHABLE = "the address cannot be reached"
    TIMED_OUT = "no answer in time"
    CLOSED = "the connection was closed without an answer"
    PLAIN_HTTP = "the port speaks plain http, not TLS"
    WANTS_TLS = "the port speaks TLS, not plain http"
    NOT_HTTP = "the answer is not HTTP"
    UNTRUSTED = "the certificate's authority is not trusted"
    WRONG_NAME = "the certificate is for other names"
    EXPIRED = "the certificate is expired, or not yet valid"
    AUTHORITY = "the certificate is an authority's own"
    STRICT = "the certificate does not pass Python's strict checks"
    TLS = "the TLS handshake failed"
    PROXY = "the proxy refused the request"


CERTIFICATE_TROUBLES = frozenset(
    (Trouble.UNTRUSTED, Trouble.WRONG_NAME, Trouble.EXPIRED, Trouble.AUTHORITY, Trouble.STRICT)
)
"""The troubles with a certificate: the port speaks TLS, and https is not usable."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Facts of a server's certificate. Names and issuer are empty where OpenSSL would not tell them."""

    names: tuple[str, ...] = ()
    issuer: str = ""
    is_authority: bool = False
    """True for CA:TRUE, which TLS clients such as rustls refuse as a server's certificate."""
    troubles: tuple[Trouble, ...] = ()
    """WRONG_NAME and EXPIRED as far as they hold, for a certificate that was refused: OpenSSL names one fault only."""
    sent: int = 0
    """The number of certificates that the server sent, for a certificate that was refused."""


@dataclass(frozen=True, slots=True)
class Look:
    """The outcome of one request. Either ``trouble`` is set, or ``status``, ``headers`` and ``body`` are.

    Attributes:
        detail: the system's or OpenSSL's own words on the trouble.
        address: the IP address that was tried last.
        connected: True if there was a connection, to the domain or to the proxy.
        headers: the headers of the answer, with names in lower case.
        body: the first 64 KiB of the answer's body.
        seconds: the time from the start of the request to its outcome.
    """

    scheme: Scheme
    domain: Domain
    trouble: Trouble | None = None
    detail: str = ""
    address: str = ""
    connected: bool = False
    certificate: Certificate | None = None
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    @property
    def is_redirect(self) -> bool:
        return self.status // 100 == 3 and "location" in self.headers


class ManagerKind(StrEnum):
    """The kind of manager that answers."""

    EMBEDDED = "the embedded manager"
    LIKE_OPENKRUISE = "an embedded manager started with --like openkruise"
    OPENKRUISE = "OpenKruise's manager"


def manager_kind(health: Look) -> ManagerKind | None:
    """Return who answered ``GET /kruise/api/health``, or None if the answer is not a manager's.

    OpenKruise's manager has no such route, and answers as every program in Go does. So a Go program that is no manager
    is taken for one. Whether the API answers tells the two apart.
    """
    text = health.text.strip()
    if health.status == http.client.OK and text == "OK":
        return ManagerKind.EMBEDDED
    if health.status == http.client.NOT_FOUND and text == "404 page not found":
        embedded = "x-request-id" in health.headers and "server" not in health.headers  # Envoy names itself
        return ManagerKind.LIKE_OPENKRUISE if embedded else ManagerKind.OPENKRUISE
    return None


def look_at(
    scheme: Scheme,
    domain: Domain,
    path: str = HEALTH,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    seconds: float = 5.0,
    proxy: str | None = None,
) -> Look:
    """Send one request to ``<scheme>://<domain><path>``, and return its outcome within ``seconds``.

    Certificates are checked as Python does, with ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` in force. Redirects are not
    followed.

    Args:
        proxy: the URL of an http or https proxy to send the request through, with or without user and password.
    """
    started = time.monotonic()
    found: dict[str, Any]
    with _Request(scheme, domain, proxy, started + seconds) as request:
        try:
            found = request.send(method, path, dict(headers or {}), body)
        except _TroubleError as error:
            found = {"trouble": error.trouble, "detail": error.detail}
        certificate = request.certificate
        if found.get("trouble") in CERTIFICATE_TROUBLES - {Trouble.AUTHORITY}:
            certificate = request.examined_certificate()
    return Look(
        scheme,
        domain,
        address=request.address,
        connected=request.connected,
        certificate=certificate,
        seconds=time.monotonic() - started,
        **found,
    )


def resolve(host: str, port: int, seconds: float = 5.0) -> list[str]:
    """Return the IP addresses of a host name, IPv6 and IPv4, in the system's order.

    Raises:
        socket.gaierror: the name has no address.
        TimeoutError: the system did not answer within ``seconds``.
    """
    # The system's resolver knows no time limit, so a thread that may outlive this call asks it.
    answers: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except OSError as error:
            answers.put(error)
        except UnicodeError as error:  # a label that is too long, or empty
            answers.put(socket.gaierror(socket.EAI_NONAME, f"not a name of the DNS: {error}"))

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=max(seconds, 0.001))
    except queue.Empty:
        raise TimeoutError(f"no address of {host} within {seconds:.1f} seconds") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def resolve_as_sdk(host: str, port: int, seconds: float = 5.0) -> list[str]:
    """Do as :func:`resolve` does; a name below ``localhost`` that the system does not know is this machine.

    So RFC 6761 (6.3) wants it, and e2b from 2.38.0 on does it.
    """
    try:
        return resolve(host, port, seconds)
    except socket.gaierror:
        if not host.endswith(".localhost"):
            raise
        return resolve("localhost", port, seconds)


class _TroubleError(Exception):
    def __init__(self, trouble: Trouble, detail: str = "") -> None:
        super().__init__(trouble, detail)
        self.trouble = trouble
        self.detail = detail


class _Stream(io.RawIOBase):
    """The bytes that a socket receives until a point in time."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self.first = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(_left(self._deadline))
        count = self._connection.recv_into(buffer)
        if len(self.first) < len(_HEAD_OF_ALERT):
            self.first += bytes(buffer[:count])[: len(_HEAD_OF_ALERT)]
        return count

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a file to read from: what ``http.client.HTTPResponse`` asks of a socket."""
        return io.BufferedReader(self)


class _Request(contextlib.ExitStack):
    """A request, what became known on its way, and its open connections."""

    def __init__(self, scheme: Scheme, domain: Domain, proxy: str | None, deadline: float) -> None:
        super().__init__()
        self._scheme = scheme
        self._domain = domain
        self._port = domain.port or DEFAULT_PORTS[scheme]
        self._proxy = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
        self._deadline = deadline
        self.address = ""
        self.connected = False
        self.certificate: Certificate | None = None

    def send(self, method: str, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        connection = self._with_tls() if self._scheme == "https" else self._connect()
        target = path
        if self._proxy is not None and self._scheme == "http":
            target = f"http://{self._domain}{path}"
            headers |= self._proxy_headers()
        fields = {"Host": str(self._domain), "Connection": "close", "Accept": "*/*", **headers}
        if body or method == "POST":
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        stream = _Stream(connection, self._deadline)
        try:
            connection.settimeout(_left(self._deadline))
            connection.sendall("\r\n".join(lines).encode("latin-1", "replace") + body)
            return self._read(stream, method)
        except TimeoutError:
            raise _TroubleError(Trouble.TIMED_OUT, "connected, but nothing was answered") from None
        except (http.client.HTTPException, OSError) as error:
            if stream.first.startswith(_HEAD_OF_ALERT):
                raise _TroubleError(Trouble.WANTS_TLS, "the answer is a TLS alert") from None
            if isinstance(error, OSError):  # closed without an answer, or reset
                raise _TroubleError(Trouble.CLOSED, _words(error)) from None
            raise _TroubleError(Trouble.NOT_HTTP, repr(error)[:200]) from None

    def _read(self, stream: _Stream, method: str) -> dict[str, Any]:
        response = http.client.HTTPResponse(stream, method=method)  # type: ignore[arg-type]  # it calls makefile alone
        response.begin()
        try:
            body = response.read(_MOST_BYTES)
        except (http.client.IncompleteRead, OSError) as error:  # the head has arrived, which is an answer
            body = getattr(error, "partial", b"")
        if self._scheme == "http" and response.status == http.client.BAD_REQUEST and re.search(rb"(?i)https", body):
            # nginx: "The plain HTTP request was sent to HTTPS port"; Go: "Client sent an HTTP request to an HTTPS
            # server"; the embedded manager has words of its own.
            raise _TroubleError(Trouble.WANTS_TLS, body.decode(errors="replace").strip()[:200])
        if self._proxy is not None and response.status == http.client.PROXY_AUTHENTICATION_REQUIRED:
            raise _TroubleError(Trouble.PROXY, "407: it wants another user or password")
        headers = {name.lower(): value for name, value in response.getheaders()}
        return {"status": response.status, "headers": headers, "body": body}

    def _connect(self) -> socket.socket:
        """Return a connection to the domain, perhaps through the proxy."""
        if self._proxy is None:
            return self._connect_to(self._domain.host, self._port)
        try:
            port = self._proxy.port or (443 if self._proxy.scheme == "https" else 80)
        except ValueError as error:
            raise _TroubleError(Trouble.PROXY, f"its URL is not one: {error}") from None
        if self._proxy.scheme not in ("http", "https"):
            raise _TroubleError(Trouble.PROXY, f"only http and https proxies are tried, not {self._proxy.scheme}")
        connection = self._connect_to(self._proxy.hostname or "", port)
        if self._proxy.scheme == "https":
            connection = self._handshake(connection, ssl.create_default_context(), self._proxy.hostname or "")
        if self._scheme == "https":
            self._open_tunnel(connection)
        return connection

    def _open_tunnel(self, connection: socket.socket) -> None:
        authority = f"{self._domain.host}:{self._port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        lines += [f"{name}: {value}" for name, value in self._proxy_headers().items()]
        try:
            connection.settimeout(_left(self._deadline))
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))
            head = b""
            while b"\r\n\r\n" not in head and len(head) < _MOST_BYTES:
                connection.settimeout(_left(self._deadline))
                piece = connection.recv(1)  # not one byte of what comes through the tunnel
                if not piece:
                    break
                head += piece
        except OSError as error:
            raise _TroubleError(Trouble.PROXY, _words(error)) from None
        status = re.match(rb"HTTP/1\.[01] (\d{3})[^\r\n]*", head)
        if status is None or not status[1].startswith(b"2"):
            raise _TroubleError(Trouble.PROXY, (status[0] if status else b"closed").decode(errors="replace"))

    def _proxy_headers(self) -> dict[str, str]:
        if self._proxy is None or self._proxy.username is None:
            return {}
        user = f"{unquote(self._proxy.username)}:{unquote(self._proxy.password or '')}"
        return {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}

    def _connect_to(self, host: str, port: int) -> socket.socket:
        try:
            addresses = resolve_as_sdk(host, port, _left(self._deadline))
        except TimeoutError as error:
            raise _TroubleError(Trouble.TIMED_OUT, str(error)) from None
        except OSError as error:
            raise _TroubleError(Trouble.NAME, _words(error)) from None
        trouble, details = Trouble.UNREACHABLE, []
        for count, address in enumerate(addresses):
            self.address = address
            try:
                seconds = _left(self._deadline) / (len(addresses) - count)
                connection = self.enter_context(socket.create_connection((address, port), seconds))
            except OSError as error:
                trouble = _trouble_of_connecting(error)
                details.append(f"{address}: {_words(error)}")
            else:
                self.connected = True
                return connection
        raise _TroubleError(trouble, ", ".join(details))

    def _with_tls(self) -> ssl.SSLSocket:
        secured = self._handshake(self._connect(), ssl.create_default_context(), self._domain.host)
        self.certificate = _described(secured.getpeercert(), secured.getpeercert(True))
        if self.certificate.is_authority:
            raise _TroubleError(Trouble.AUTHORITY, "CA:TRUE")
        return secured

    def _handshake(self, connection: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
        connection.settimeout(_left(self._deadline))
        try:
            connection.getpeername()  # if the server has gone, wrap_socket would fail and leave its socket open
            return self.enter_context(context.wrap_socket(connection, server_hostname=host.strip("[]")))
        except ssl.SSLCertVerificationError as error:
            raise _TroubleError(_trouble_of_certificate(error), error.verify_message) from None
        except ssl.SSLError as error:
            trouble = Trouble.PLAIN_HTTP if error.reason in _NOT_TLS else Trouble.TLS
            raise _TroubleError(trouble, error.reason or str(error)) from None
        except TimeoutError:
            raise _TroubleError(Trouble.TIMED_OUT, "connected, but the TLS handshake was not answered") from None
        except OSError as error:
            raise _TroubleError(Trouble.CLOSED, _words(error)) from None

    def examined_certificate(self) -> Certificate | None:
        """Fetch the certificate that was refused over connections of their own, which send nothing."""
        unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unchecked.check_hostname = False
        unchecked.verify_mode = ssl.CERT_NONE
        found: Certificate | None = None
        try:
            shown = self._handshake(self._connect(), unchecked, self._domain.host)
            encoded = shown.getpeercert(True) or b""
            sent = len(shown._sslobj.get_unverified_chain())  # type: ignore[attr-defined]  # public in Python 3.13
            found = Certificate(is_authority=_AUTHORITY.search(encoded) is not None, sent=sent)
            troubles = [self._trouble_alone(encoded, names=True), self._trouble_alone(encoded, times=True)]
            found = replace(found, troubles=tuple(each for each in troubles if each is not None))
            # Python decodes a certificate that passed a check: here the check that the certificate is itself.
            decoded = self._handshake(self._connect(), _trusting(encoded), self._domain.host).getpeercert()
            return replace(found, names=_described(decoded, None).names, issuer=_described(decoded, None).issuer)
        except (_TroubleError, OSError):
            return found

    def _trouble_alone(self, encoded: bytes, *, names: bool = False, times: bool = False) -> Trouble | None:
        try:
            self._handshake(self._connect(), _trusting(encoded, names=names, times=times), self._domain.host)
        except _TroubleError as error:
            return error.trouble if error.trouble in (Trouble.WRONG_NAME, Trouble.EXPIRED) else None
        return None


def _trusting(encoded: bytes, *, names: bool = False, times: bool = False) -> ssl.SSLContext:
    """Return a context that trusts this one certificate, whoever made it, and looks at what is asked for only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = names
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if not times:
        context.verify_flags |= _NO_CHECK_TIME
    context.load_verify_locations(cadata=encoded)
    return context


def _described(decoded: Mapping[str, Any] | None, encoded: bytes | None) -> Certificate:
    decoded = decoded or {}
    names = tuple(value for _, value in decoded.get("subjectAltName", ()))
    issuer = ", ".join(value for part in decoded.get("issuer", ()) for _, value in part)
    return Certificate(names, issuer, _AUTHORITY.search(encoded or b"") is not None)


def _trouble_of_certificate(error: ssl.SSLCertVerificationError) -> Trouble:
    expired, not_yet, wrong_name, wrong_address = 10, 9, 62, 64
    if error.verify_code in (expired, not_yet):
        return Trouble.EXPIRED
    if error.verify_code in (wrong_name, wrong_address):
        return Trouble.WRONG_NAME
    return Trouble.STRICT if error.verify_code in _STRICT_CODES else Trouble.UNTRUSTED


def _trouble_of_connecting(error: OSError) -> Trouble:
    if isinstance(error, ConnectionRefusedError):
        return Trouble.REFUSED
    return Trouble.TIMED_OUT if isinstance(error, TimeoutError) else Trouble.UNREACHABLE


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
