"""The control plane of the proxy: each request goes through the bridge, and answers name the domain of the client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from ..client.addresses.v1_bridge import AsyncBridgeTransport, Bridge, Known
from ..client.addresses.v1_calls import v1_path
from ..errors import UnsupportedByManagerError
from ..manager.api.errors import DO_NOT_RETRY, RETRY, error_response
from ..manager.gateway.client import client_of
from ..manager.gateway.headers import forwarded, response_forwarded
from ..manager.gateway.http import ResponseCutError
from ..protocol.openkruise import route_at
from .hosts import OwnNames
from .tokens import TrafficTokens
from .upstream import NoAnswerError, UnreachableError, Upstream, UpstreamTransport

_MOST_READ = 1024 * 1024
"""The largest body of a request, in bytes, that is read whole for the bridge. Larger ones are files of volumes."""
_WITH_DOMAIN = ("sandboxes", "volumes")
_NOT_SENT = (b"accept-encoding", b"host", b"content-length")


class UpstreamApi:
    """The ASGI application of requests to the API. ``about`` is the text of the page at ``/``."""

    def __init__(
        self, upstream: Upstream, names: OwnNames, tokens: TrafficTokens | None, about: Callable[[], str]
    ) -> None:
        self._names = names
        self._tokens = tokens
        self._about = about
        self._base = httpx.URL(upstream.api_url)
        known: dict[str, Known] = {}
        self._bridge = AsyncBridgeTransport(UpstreamTransport(upstream), Bridge(upstream.api_url, known))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refused := self._names.refusal(scope)) is not None:
            await refused(scope, receive, send)
            return
        if scope["raw_path"] == b"/" and scope["method"] in ("GET", "HEAD"):
            await PlainTextResponse(self._about())(scope, receive, send)
            return
        client = client_of(scope)
        work = asyncio.ensure_future(self._serve(scope, receive, send))

        def give_up() -> None:
            work.cancel()

        client.when_left(give_up)
        try:
            await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not client.left or (task is not None and task.cancelling()):
                raise
        finally:
            client.when_left(None)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (route := route_at(scope["method"], v1_path(scope["method"], scope["path"]) or scope["path"])) is not None:
            scope["route"] = route  # for the log
        try:
            request = await self._request(scope, receive)
            if request is None:
                message = f"the body of a request to this route has at most {_MOST_READ} bytes"
                await error_response(413, message, DO_NOT_RETRY)(scope, receive, send)
                return
            response = await self._bridge.handle_async_request(request)
            names_domain = response.is_success and _names_domain(scope, response)
            if names_domain:
                await response.aread()
        except UnsupportedByManagerError as error:
            await error_response(400, str(error), DO_NOT_RETRY)(scope, receive, send)
        except UnreachableError as error:
            await error_response(503, str(error), RETRY)(scope, receive, send)
        except NoAnswerError as error:
            await error_response(502, str(error), DO_NOT_RETRY)(scope, receive, send)
        else:
            try:
                await self._answer(response, scope, send, names_domain=names_domain)
            except NoAnswerError as error:
                raise ResponseCutError(str(error)) from error
            finally:
                await response.aclose()

    async def _answer(self, response: httpx.Response, scope: Scope, send: Send, *, names_domain: bool) -> None:
        status = response.status_code
        headers = response_forwarded([(name.lower(), value) for name, value in response.headers.raw], status)
        if not names_domain and response.is_success and scope["method"] == "DELETE" and self._tokens is not None:
            self._tokens.forget(scope["path"].rpartition("/")[2])
        whole = _content(response)
        if whole is not None:
            if names_domain:
                if self._tokens is not None:
                    await self._tokens.learn(scope, whole)
                whole = with_domain(whole, scope["state"]["domain"])
            headers = [pair for pair in headers if pair[0] not in (b"content-length", b"content-encoding")]
            headers.append((b"content-length", str(len(whole)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if whole is None:
            async for piece in response.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": whole or b""})

    async def _request(self, scope: Scope, receive: Receive) -> httpx.Request | None:
        """Return the request to the manager's private API; None if its body is too long for the bridge."""
        sent = dict(scope["headers"])
        headers = [pair for pair in forwarded(scope["headers"]) if pair[0] not in _NOT_SENT]
        path, query = scope["raw_path"], scope["query_string"]
        target = self._base.raw_path + path + (b"?" + query if query else b"")
        is_file = b"json" not in sent.get(b"content-type", b"") and not _is_short(sent)
        content: bytes | AsyncIterator[bytes]
        if is_file:
            content = _pieces(receive)
            if (length := sent.get(b"content-length")) is not None:
                headers.append((b"content-length", length))
        else:
            body = bytearray()
            async for piece in _pieces(receive):
                body += piece
                if len(body) > _MOST_READ:
                    return None
            content = bytes(body)
        url = self._base.copy_with(raw_path=target)
        return httpx.Request(scope["method"], url, headers=headers, content=content)


def _is_short(headers: dict[bytes, bytes]) -> bool:
    length = headers.get(b"content-length", b"0")
    return b"transfer-encoding" not in headers and int(length) <= _MOST_READ


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError  # nobody waits for an answer
        if piece := message.get("body", b""):
            yield piece
        more = message.get("more_body", False)


def _content(response: httpx.Response) -> bytes | None:
    """Return the body if it has been read, or None if it is still to come."""
    try:
        return response.content
    except httpx.ResponseNotRead:
        return None


def _names_domain(scope: Scope, response: httpx.Response) -> bool:
    first = scope["path"].removeprefix("/v2").strip("/").partition("/")[0]
    is_json = "json" in response.headers.get("content-type", "")
    return is_json and first in _WITH_DOMAIN and scope["method"] != "HEAD"


def with_domain(body: bytes, domain: str) -> bytes:
    """Return a JSON answer of the API with ``domain`` in place of the domain that the manager has named."""
    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError):
        return body
    objects = answer if isinstance(answer, list) else [answer]
    named = [found for found in objects if isinstance(found, dict) and found.get("domain", domain) != domain]
    for found in named:
        found["domain"] = domain
    return json.dumps(answer, separators=(",", ":")).encode() if named else body
