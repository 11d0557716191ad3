"""Bridge from the SDK to a sandbox-manager that has no ``POST /v2/sandboxes``.

The bridge is a transport between the SDK's REST client and the SDK's own transport. A request that such a manager reads
rightly is sent as it is. For any other request the bridge must know whether the manager has v2 routes. e2b 2.51.0 and
later send v2 requests, whose answers tell that. Before other requests the bridge probes the manager. If the routes are
missing, the request is translated, answered from what the manager can say, or refused (``v1_calls.py``).

The bridge also adds an idempotency key to v2 requests that create a sandbox, unless they have such a key, and removes
credentials from requests that do not go to the API.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple
from urllib.parse import urlencode

import httpx

from ...errors import UnsupportedByManagerError
from ...protocol.names import API_KEY_HEADER
from ..warnings import OlderManagerWarning, notify
from .explained_answers import explained
from .missing_template import is_missing_template, question, with_templates
from .v1_calls import IDEMPOTENCY_KEY, Loss, OlderCall, is_no_route, is_refused_body, older_call, v1_path


class Step(NamedTuple):
    """A request to send. ``whole``: read the response's body before the flow goes on. Error bodies are always read."""

    request: httpx.Request
    whole: bool = False


Flow = Generator[Step, httpx.Response, httpx.Response]
"""A generator that yields requests, is sent the response to each or the exception in place of one, and returns the
response for the SDK."""

_CREDENTIALS = (API_KEY_HEADER, "Authorization")
_TOO_MANY_REQUESTS = 429


class Generation(Enum):
    """The generation of a manager's API: with the v2 routes or without."""

    V1_ONLY = auto()
    V2 = auto()


@dataclass
class Known:
    """Facts that this process has learnt about one API.

    Attributes:
        considered: each :class:`.Loss` that needs no warning, because it was given or the manager has v2 routes.
    """

    generation: Generation | None = None
    considered: set[Loss] = field(default_factory=set)


class Bridge:
    """Decisions about the requests to one API.

    Args:
        api_url: the base URL of the API.
        known: the knowledge about each API, by base URL. The bridge adds and corrects entries.
        private: names of headers that go to this API only, in addition to the headers with credentials.
    """

    def __init__(self, api_url: str, known: dict[str, Known], private: Iterable[str] = ()) -> None:
        self._base = httpx.URL(api_url)
        self._path = self._base.raw_path.decode().rstrip("/")
        self._api = f"{_origin(self._base)}{self._path}"
        self._known = known.setdefault(self._api, Known())
        self._private = [*_CREDENTIALS, *private]

    def flow(self, request: httpx.Request) -> Flow:
        """Yield the requests to send for ``request``, and return the response; may raise UnsupportedByManagerError."""
        path = self._path_in_api(request.url)
        if not path:
            # A template's file is uploaded to storage. Up to e2b 2.28.1 the SDK uploads with the client of the API,
            # which sends the key; later releases use a client without headers.
            for name in self._private:
                request.headers.pop(name, None)
            return (yield Step(request))
        response = yield from self._route(request, path)
        if is_missing_template(response):
            response = yield from self._with_templates(request, response)
        return explained(request, response)

    def _route(self, request: httpx.Request, path: str) -> Flow:
        """Send a request to the API in the form that the manager reads."""
        call = older_call(
            request.method,
            path,
            request.url.query.decode(),
            request.headers,
            request.content if isinstance(request.stream, httpx.ByteStream) else b"",
            private=self._path.endswith("/kruise/api"),
        )
        if v1_path(request.method, path) is not None:
            return (yield from self._bridge(request, call))
        losses = self._new_losses(call)
        if not call.is_changed and not losses:
            return (yield Step(request))
        undecided, doubt = yield from self._learn(request)
        if undecided is not None and call.is_changed:
            return undecided
        if self._known.generation is Generation.V1_ONLY or (doubt and call.is_changed):
            return (yield from self._put_to_v1(request, call, doubt))
        if self._known.generation is Generation.V2:
            self._known.considered.update(losses)
        return (yield Step(request))

    def _with_templates(self, request: httpx.Request, refusal: httpx.Response) -> Flow:
        url = self._base.copy_with(raw_path=f"{self._path}/templates".encode())
        try:
            templates = yield Step(question(request, url), whole=True)
        except Exception:  # of httpx, httpcore or pyqwest, by the SDK; the refusal counts, and not this question
            return refusal
        return with_templates(refusal, templates)

    def _path_in_api(self, url: httpx.URL) -> str:
        path = url.raw_path.decode().partition("?")[0]
        inside = _origin(url) == _origin(self._base) and path.startswith(f"{self._path}/")
        return path.removeprefix(self._path) if inside else ""

    def _new_losses(self, call: OlderCall) -> list[Loss]:
        return [loss for loss in call.losses if loss not in self._known.considered]

    def _bridge(self, request: httpx.Request, call: OlderCall) -> Flow:
        """Send a request to its v2 route, and, if the manager has no such route, to the older route."""
        if call.path == "/sandboxes":
            # All attempts of one call have the same key, because the SDK's own retries are below the bridge and repeat
            # the headers. So a manager that knows such keys makes one sandbox, however often the request arrives.
            request.headers.setdefault(IDEMPOTENCY_KEY, str(uuid.uuid4()))
        certain = self._known.generation is Generation.V1_ONLY
        if not certain:
            response = yield Step(request)
            if response.is_success:
                self._known.generation = Generation.V2
            if response.is_success or not _is_no_route(response):
                return response
            certain = response.status_code == httpx.codes.METHOD_NOT_ALLOWED
            if certain:
                self._known.generation = Generation.V1_ONLY
        response = yield from self._put_to_v1(request, call)
        if not certain and response.is_success:
            # The 404 may have come from a proxy without its manager. The older route's success proves the generation.
            self._known.generation = Generation.V1_ONLY
        return response

    def _put_to_v1(self, request: httpx.Request, call: OlderCall, doubt: str = "") -> Flow:
        """Send what a manager without v2 routes needs, or raise UnsupportedByManagerError."""
        if call.feature is not None and (call.path is None or doubt):
            raise UnsupportedByManagerError(
                f"{call.feature}: the sandbox-manager at {self._api} has no v2 routes, and one that old takes "
                f"{request.method} {request.url.path} for another call, so it was not sent. It needs a newer manager"
                f"{doubt}"
            )
        if call.ignored:
            raise UnsupportedByManagerError(
                f"the sandbox-manager at {self._api} has no v2 routes, and one that old ignores "
                f"{', '.join(call.ignored)}, so the call was given up. Leave it out, or use a newer manager{doubt}"
            )
        for loss in self._new_losses(call):
            notify(
                f"the sandbox-manager at {self._api} has no v2 routes. With a manager that old, {loss.value}",
                OlderManagerWarning,
            )
            self._known.considered.add(loss)  # not if a filter made the warning an error: nothing is sent then
        if call.selection is None:
            return (yield Step(self._older(request, call, call.query)))
        pages = call.selection.pages(call.query or {})
        try:
            query = next(pages)
            while True:
                query = pages.send((yield Step(self._older(request, call, query), whole=True)))
        except StopIteration as end:
            return _answer(end)

    def _older(self, request: httpx.Request, call: OlderCall, query: Mapping[str, str] | None) -> httpx.Request:
        path, _, sent_query = request.url.raw_path.decode().partition("?")
        path = path if call.path is None else f"{self._path}{call.path}"
        sent_query = sent_query if query is None else urlencode(query)
        body = request.content if call.body is None else call.body
        headers = request.headers.copy()
        headers.update(call.headers)
        if body:
            headers["Content-Length"] = str(len(body))
        return httpx.Request(
            request.method,
            request.url.copy_with(raw_path=(f"{path}?{sent_query}" if sent_query else path).encode()),
            headers=headers,
            # A create must not be repeated: an older manager knows no idempotency keys, and may have made the sandbox
            # although a proxy answers 503. Other requests may be repeated.
            stream=SentOnce(body) if path == f"{self._path}/sandboxes" else httpx.ByteStream(body),
            extensions=request.extensions,
        )

    def _learn(self, request: httpx.Request) -> Generator[Step, httpx.Response, tuple[httpx.Response | None, str]]:
        """Probe the manager for v2 routes, unless the process knows already whether they exist.

        Return two things: the probe's response if its status is 429 or 5xx, else None; and text for error messages if
        perhaps no manager is at the URL, else an empty text.
        """
        if self._known.generation is not None:
            return None, ""
        response = yield Step(self._probe(request))
        if response.status_code == _TOO_MANY_REQUESTS or response.is_server_error:
            return response, ""
        if response.is_success or is_refused_body(response.status_code, response.content):
            self._known.generation = Generation.V2
        elif response.status_code == httpx.codes.METHOD_NOT_ALLOWED:
            self._known.generation = Generation.V1_ONLY
        elif _is_no_route(response):
            return None, (
                f" – or there is none at all at that address, which answered {response.status_code} with a "
                f"text: check E2B_DOMAIN, and what stands in front of the manager"
            )
        return None, ""

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
                try:
                    response = self._inner.handle_request(step.request)
                    if not response.is_success or step.whole:
                        response.read()
                except Exception as error:  # of any kind: the flow raises it again, or goes on without the answer
                    step = flow.throw(error)
                else:
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
                try:
                    response = await self._inner.handle_async_request(step.request)
                    if not response.is_success or step.whole:
                        await response.aread()
                except Exception as error:  # of any kind: the flow raises it again, or goes on without the answer
                    step = flow.throw(error)
                else:
                    step = flow.send(response)
        except StopIteration as end:
            return _answer(end)
        finally:
            flow.close()

    async def aclose(self) -> None:
        await self._inner.aclose()


_known: dict[str, Known] = {}


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
