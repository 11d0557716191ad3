"""The connections from the proxy to its sandbox-manager, and the transport that the bridge sends its requests over."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import httpx

from ..errors import ConfigurationError, DomainError, KruiseAgentsError
from ..manager.gateway.headers import unsendable
from ..manager.unix_http import BadResponseError, Exchange, HttpConnection, KeptConnections, ResponseHead
from ..protocol.addresses import Scheme, api_url
from ..protocol.domains import Domain, parse_domain

_CONNECT_SECONDS = 15.0
_TRIES = 5
_RETRY_SECONDS = 0.1
_MOST_KEPT = 64
_DEFAULT_PORTS: dict[Scheme, int] = {"https": 443, "http": 80}
_MOST_READ = 16 * 1024 * 1024
"""The largest answer, in bytes, that is read whole. Answers that are passed on as they come have no limit."""
_STATUSES = range(200, 600)
_ALL = 0  # there is one port, so all kept connections are alike

Locate = Callable[[], Awaitable[tuple[str, int]]]
"""A function that returns the host and the port to connect to, and raises UnreachableError if there is none now."""


class UnreachableError(KruiseAgentsError):
    """A manager that cannot be connected to. Nothing was sent."""


class NoAnswerError(KruiseAgentsError):
    """A request to the manager that was sent, and got no proper answer."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The scheme and the domain of a manager. ``str()`` gives the form that a browser sends as ``Origin``."""

    scheme: Scheme
    domain: Domain

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read ``https://your.domain``, ``http://host:port``, or a domain alone, which means https.

        Raises ConfigurationError if ``text`` has another form.
        """
        scheme, mark, rest = text.strip().partition("://")
        if not mark:
            scheme, rest = "https", text
        if scheme.lower() not in ("https", "http"):
            raise ConfigurationError(f"--upstream {text!r} begins with {scheme!r}; it begins with https or http")
        path = urlsplit(f"//{rest}").path.rstrip("/")
        if path in ("/kruise", "/kruise/api"):
            rest = rest.strip().rstrip("/").removesuffix(path)
        try:
            domain = parse_domain(rest)
        except DomainError as error:
            raise ConfigurationError(f"--upstream {text!r}: {error}") from error
        return cls("https" if scheme.lower() == "https" else "http", domain)

    @property
    def port(self) -> int:
        return self.domain.port or _DEFAULT_PORTS[self.scheme]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.domain}"


def client_context(authority: Path | None) -> ssl.SSLContext:
    """Return a TLS context that trusts ``authority``, or the file of ``SSL_CERT_FILE``, or else public authorities."""
    if authority is not None:
        try:
            context = ssl.create_default_context(cafile=str(authority))
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror if isinstance(error, FileNotFoundError) else "it has no certificate in PEM form"
            raise ConfigurationError(f"--upstream-ca {authority} cannot be used: {reason}") from error
    else:
        context = ssl.create_default_context()
        if "SSL_CERT_FILE" not in os.environ:
            context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


class Upstream:
    """The manager behind the proxy.

    Args:
        origin: the manager's origin, which names the ``Host`` of each request, and the name in its certificate.
        tls: the TLS context, for an origin with https.
        locate: finds the address to connect to, if that is not the origin's own.
        name: the manager's name in messages; by default the origin.
    """

    def __init__(
        self, origin: Origin, tls: ssl.SSLContext | None, locate: Locate | None = None, name: str | None = None
    ) -> None:
        self.origin = origin
        self.name = name or str(origin)
        self.authority = str(origin.domain).encode()
        self.api_url = api_url(origin.scheme, str(origin.domain))
        self._tls = tls
        self._locate = locate
        self._kept = KeptConnections(_MOST_KEPT)

    async def connect(self) -> Exchange:
        """Return an exchange on a new or a kept connection. Raises UnreachableError."""
        if (kept := self._kept.take(_ALL)) is not None:
            return Exchange(kept)
        for _ in range(_TRIES if self._locate is not None else 0):
            with contextlib.suppress(ConnectionRefusedError):  # a port-forward has ended, and nobody knows yet
                return await self._open()
            await asyncio.sleep(_RETRY_SECONDS)
        try:
            return await self._open()
        except OSError as error:
            raise UnreachableError(
                f"kruise-agents proxy cannot connect to the sandbox-manager at {self.name}: {_reason(error)}"
            ) from error

    async def _open(self) -> Exchange:
        name = self.origin.domain.host.strip("[]")
        host, port = await self._locate() if self._locate is not None else (name, self.origin.port)
        async with asyncio.timeout(_CONNECT_SECONDS):
            return Exchange(await HttpConnection.to(host, port, self._tls, name))

    def release(self, exchange: Exchange) -> None:
        """Keep the connection of an exchange for a next request if both sides are done, or else close it."""
        if exchange.reusable:
            self._kept.give(_ALL, exchange.connection)
        else:
            exchange.close()

    def close(self) -> None:
        self._kept.close()


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no connection within {_CONNECT_SECONDS:g} seconds; check the domain, and a firewall in between"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}); give the certificate of its authority with "
            f"--upstream-ca, or a name that its certificate has with --upstream"
        )
    if isinstance(error, ssl.SSLError):
        return f"it does not speak TLS there ({error.reason}); if it speaks plain http, begin --upstream with http://"
    if f"[Errno {errno.ECONNREFUSED}]" in str(error):  # also of several addresses
        return "nobody listens there; check the host and the port of --upstream"
    return error.strerror or str(error)


class UpstreamTransport(httpx.AsyncBaseTransport):
    """A transport for requests to the manager. It raises UnreachableError and NoAnswerError."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = await self._upstream.connect()
        try:
            await self._send(exchange, request)
            head = _checked(await exchange.receive_head())
        except BaseException as error:
            exchange.abort()
            if isinstance(error, OSError | BadResponseError):
                raise NoAnswerError(
                    f"the sandbox-manager at {self._upstream.origin} did not answer: {error}"
                ) from error
            raise
        return _Response(head.status, headers=head.headers, stream=_Body(exchange, self._upstream))

    async def _send(self, exchange: Exchange, request: httpx.Request) -> None:
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        await exchange.send_head(request.method, request.url.raw_path, headers)
        assert isinstance(request.stream, httpx.AsyncByteStream)
        pieces = aiter(request.stream)
        async for piece in pieces:
            try:
                await exchange.send_body(piece)
            except OSError:
                return  # the manager has answered without reading the rest, or went away; the answer shows which
        await exchange.send_end()


def _checked(head: ResponseHead) -> ResponseHead:
    """Return the head of an answer that can be passed on. Raises BadResponseError for another."""
    if head.status not in _STATUSES:
        raise BadResponseError(f"its status is {head.status}")
    if (name := unsendable(head.headers)) is not None:
        raise BadResponseError(f"its header {name} has a control character")
    return head


class _Response(httpx.Response):
    """An answer that is not read whole if it is compressed, which nobody has asked for, or too large."""

    async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        try:
            async for piece in _bounded(self, chunk_size):
                yield piece
        except BaseException:  # also when the client has left: nobody else closes what was not read
            await self.aclose()
            raise


async def _bounded(response: httpx.Response, chunk_size: int | None) -> AsyncIterator[bytes]:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise NoAnswerError("the sandbox-manager has compressed its answer, which the proxy did not ask for")
    size = 0
    async for piece in response.aiter_raw(chunk_size):
        size += len(piece)
        if size > _MOST_READ:
            raise NoAnswerError(f"the answer of the sandbox-manager has more than {_MOST_READ} bytes")
        yield piece


class _Body(httpx.AsyncByteStream):
    def __init__(self, exchange: Exchange, upstream: Upstream) -> None:
        self._exchange = exchange
        self._upstream = upstream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._exchange.receive_body():
                yield piece
        except (OSError, BadResponseError) as error:
            raise NoAnswerError(f"the answer of the sandbox-manager broke off: {error}") from error

    async def aclose(self) -> None:
        self._upstream.release(self._exchange)
