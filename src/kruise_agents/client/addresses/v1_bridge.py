"""Bridge from e2b 2.51.0 and later to a sandbox-manager that has no ``POST /v2/sandboxes``.

The bridge is a transport between the SDK's REST client and the SDK's own transport. If a manager has no v2 routes, the
bridge uses the older routes to create sandboxes and to connect to them, and refuses calls that such a manager would
misread. While the manager's routes are unknown, the bridge probes the manager before each call that could be misread.
The bridge also adds an idempotency key to requests that create a sandbox, unless they have such a key, and removes
credentials from requests that do not go to the API.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from enum import Enum, auto
from typing import Any

import httpx

from ...errors import UnsupportedByManagerError
from ...protocol.names import API_KEY_HEADER
from .v1_calls import is_no_route, is_refused_body, misread, v1_body, v1_path

Flow = Generator[httpx.Request, httpx.Response, httpx.Response]
"""A generator that yields requests, is sent the response to each, and returns the response for the SDK."""

_IDEMPOTENCY_KEY = "Idempotency-Key"
_CREDENTIALS = (API_KEY_HEADER, "Authorization")
_TOO_MANY_REQUESTS = 429


class Generation(Enum):
    """The generation of a manager's API: with the v2 routes or without."""

    V1_ONLY = auto()
    V2 = auto()


class Bridge:
    """Decisions about the requests to one API.

    Args:
        api_url: the base URL of the API.
        known: the known generation of each API, by base URL. The bridge adds and corrects entries.
        private: names of headers that go to this API only, in addition to the headers with credentials.
    """

    def __init__(self, api_url: str, known: dict[str, Generation], private: Iterable[str] = ()) -> None:
        self._base = httpx.URL(api_url)
        self._path = self._base.raw_path.decode().rstrip("/")
        self._api = f"{_origin(self._base)}{self._path}"
        self._known = known
        self._private = [*_CREDENTIALS, *private]

    def flow(self, request: httpx.Request) -> Flow:
        """Yield the requests to send for ``request``, and return the response; may raise UnsupportedByManagerError."""
        path = self._path_in_api(request.url)
        if not path:
            # A template's file is uploaded to storage. Up to e2b 2.28.1 the SDK uploads with the client of the API,
            # which sends the key; later releases use a client without headers.
            for name in self._private:
                request.headers.pop(name, None)
            return (yield request)
        older = v1_path(request.method, path)
        if older is not None:
            return (yield from self._bridge(request, older))
        feature = misread(request.method, path, private=self._path.endswith("/kruise/api"))
        if feature is not None:
            undecided = yield from self._refuse_on_v1(request, feature)
            if undecided is not None:
                return undecided
        return (yield request)

    def _path_in_api(self, url: httpx.URL) -> str:
        path = url.raw_path.decode().partition("?")[0]
        inside = _origin(url) == _origin(self._base) and path.startswith(f"{self._path}/")
        return path.removeprefix(self._path) if inside else ""

    def _bridge(self, request: httpx.Request, older: str) -> Flow:
        if older == "/sandboxes":
            # All attempts of one call have the same key, because the SDK's own retries are below the bridge and repeat
            # the headers. So a manager that knows such keys makes one sandbox, however often the request arrives.
            request.headers.setdefault(_IDEMPOTENCY_KEY, str(uuid.uuid4()))
        certain = self._known.get(self._api) is Generation.V1_ONLY
        if not certain:
            response = yield request
            if response.is_success:
                self._known[self._api] = Generation.V2
            if response.is_success or not _is_no_route(response):
                return response
            certain = response.status_code == httpx.codes.METHOD_NOT_ALLOWED
            if certain:
                self._known[self._api] = Generation.V1_ONLY
        response = yield self._older(request, older)
        if not certain and response.is_success:
            # The 404 may have come from a proxy without its manager. The older route's success proves the generation.
            self._known[self._api] = Generation.V1_ONLY
        return response

    def _older(self, request: httpx.Request, path: str) -> httpx.Request:
        body = v1_body(path, request.content)
        headers = request.headers.copy()
        headers["Content-Length"] = str(len(body))
        return httpx.Request(
            request.method,
            request.url.copy_with(raw_path=f"{self._path}{path}".encode()),
            headers=headers,
            # A create must not be repeated: an older manager knows no idempotency keys, and may have made the sandbox
            # although a proxy answers 503. A connect may be repeated.
            stream=SentOnce(body) if path == "/sandboxes" else httpx.ByteStream(body),
            extensions=request.extensions,
        )

    def _refuse_on_v1(
        self, request: httpx.Request, feature: str
    ) -> Generator[httpx.Request, httpx.Response, httpx.Response | None]:
        """Raise UnsupportedByManagerError if the manager has no v2 routes. If that is not known yet, probe the manager.

        Return the probe's response if its status is 429 or 5xx; return None if ``request`` may be sent.
        """
        known = self._known.get(self._api)
        doubt = ""
        if known is None:
            response = yield self._probe(request)
            if response.status_code == _TOO_MANY_REQUESTS or response.is_server_error:
                return response
            if response.is_success or is_refused_body(response.status_code, response.content):
                self._known[self._api] = Generation.V2
            elif _is_no_route(response):
                known = Generation.V1_ONLY
                if response.status_code == httpx.codes.METHOD_NOT_ALLOWED:
                    self._known[self._api] = known
                else:
                    doubt = (
                        f" – or there is none at all at that address, which answered {response.status_code} with a "
                        f"text: check E2B_DOMAIN, and what stands in front of the manager"
                    )
        if known is Generation.V1_ONLY:
            raise UnsupportedByManagerError(
                f"{feature}: the sandbox-manager at {self._api} has no v2 routes, and one that old takes "
                f"{request.method} {request.url.path} for another call, so it was not sent. It needs a newer manager"
                f"{doubt}"
            )
        return None

    def _probe(self, request: httpx.Request) -> httpx.Request:
        """Return the request that probes the manager: ``POST /v2/sandboxes`` without a body, which creates nothing."""
        # Older managers usually answer 405 before they check the key. Newer managers refuse the missing body.
        headers = request.headers.copy()
        for name in ("Content-Length", "Content-Type", "Transfer-Encoding"):
            headers.pop(name, None)
        url = self._base.copy_with(raw_path=f"{self._path}/v2/sandboxes".encode())
        return httpx.Request("POST", url, headers=headers, content=b"", extensions=request.extensions)


class SentOnce(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A request body that the SDK sends only once.

    This body is no ``httpx.ByteStream``, and e2b 2.49.1 ... 2.63.0 retry only requests whose body is a ``ByteStream``.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


class BridgeTransport(httpx.BaseTransport):
    """A transport that sends the requests of the bridge over the SDK's own transport."""

    def __init__(self, inner: httpx.BaseTransport, bridge: Bridge) -> None:
        self._inner = inner
        self._bridge = bridge

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        flow = self._bridge.flow(request)
        try:
            step = next(flow)
            while True:
                response = self._inner.handle_request(step)
                if response.is_error:
                    response.read()
                step = flow.send(response)
        except StopIteration as end:
            return _answer(end)
        finally:
            flow.close()

    def close(self) -> None:
        self._inner.close()


class AsyncBridgeTransport(httpx.AsyncBaseTransport):
    """A transport of async clients that sends the requests of the bridge over the SDK's own transport."""

    def __init__(self, inner: httpx.AsyncBaseTransport, bridge: Bridge) -> None:
        self._inner = inner
        self._bridge = bridge

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        flow = self._bridge.flow(request)
        try:
            step = next(flow)
            while True:
                response = await self._inner.handle_async_request(step)
                if response.is_error:
                    await response.aread()
                step = flow.send(response)
        except StopIteration as end:
            return _answer(end)
        finally:
            flow.close()

    async def aclose(self) -> None:
        await self._inner.aclose()


_known: dict[str, Generation] = {}


def bridged(
    transport: httpx.BaseTransport | httpx.AsyncBaseTransport, config: Any
) -> httpx.BaseTransport | httpx.AsyncBaseTransport:
    """Return ``transport`` wrapped in a bridge. All bridges of a process share what they learn about managers."""
    bridge = Bridge(config.api_url, _known, private=config.headers or ())
    if isinstance(transport, httpx.AsyncBaseTransport):
        return AsyncBridgeTransport(transport, bridge)
    return BridgeTransport(transport, bridge)


def _answer(end: StopIteration) -> httpx.Response:
    response: httpx.Response = end.value
    return response


def _is_no_route(response: httpx.Response) -> bool:
    return response.is_error and is_no_route(response.status_code, response.content)


def _origin(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode()}"
