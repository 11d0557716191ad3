"""The forwarding of one request and its response as streams."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from ...protocol.names import SANDBOX_ID_HEADER
from ..request_log import RequestRecord, with_request_id
from ..unix_http import BadResponseError, Exchange, ResponseHead
from .client import client_of
from .headers import (
    Headers,
    accepts_websocket,
    below_prefix,
    forwarded,
    handshake_forwarded,
    response_forwarded,
    unsendable,
)
from .tunnel import Stream, join
from .whole_paths import Ask, Paths

_STATUSES = range(200, 600)

Connect = Callable[[], Awaitable[Exchange]]


async def forward(
    exchange: Exchange,
    paths: Paths,
    connect: Connect,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> str | None:
    """Send a request to a port of a sandbox, and the response to the client.

    When the client goes away, the connection to the port is cut, so that the application notices. A response that
    breaks off after its head raises :class:`ResponseCutError`. A WebSocket handshake that the application accepts
    becomes a tunnel.

    Args:
        connect: A function that returns another exchange with the port, for a request that is sent again.

    Returns:
        The reason why the sandbox gave no proper response, if the client still waits for one; otherwise None.
    """
    client = client_of(scope)
    upload: asyncio.Task[None] | None = None
    begun = False
    try:
        await exchange.send_head(scope["method"], paths.path, _request_headers(scope))
        if client.complete:
            exchange.send_rest((await receive()).get("body", b""))
            client.when_left(exchange.abort)
        else:
            upload = asyncio.create_task(_upload(exchange, receive))
        head = await exchange.receive_head()
        if _can_be_repeated(scope) and (better := await paths.better(head, _asking(scope, connect))) is not None:
            exchange, head = better
            client.when_left(exchange.abort)
        answer, cause = _answer_headers(head, paths.prefix, scope)
        if cause is not None:
            return cause
        begun = True
        if head.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
            await _tunnel(exchange, answer, scope)
            return None
        await send({"type": "http.response.start", "status": head.status, "headers": answer})
        more = True
        async for piece in exchange.receive_body():
            more = not exchange.complete
            await send({"type": "http.response.body", "body": piece, "more_body": more})
        if more:
            await send({"type": "http.response.body", "body": b""})
    except (BadResponseError, OSError) as error:
        if client.left:
            return None
        if begun:
            raise ResponseCutError(str(error)) from error
        return str(error)
    finally:
        client.when_left(None)
        if upload is not None:
            upload.cancel()
    return None


class ResponseCutError(Exception):
    """A response from a sandbox broke off in the middle. The server then cuts the client's connection."""


def _can_be_repeated(scope: Scope) -> bool:
    framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
    return scope["method"] in ("GET", "HEAD") and not framed and not _is_handshake(scope)


def _asking(scope: Scope, connect: Connect) -> Ask:
    async def ask(path: bytes) -> tuple[Exchange, ResponseHead]:
        exchange = await connect()
        await exchange.send_head(scope["method"], path, _request_headers(scope))
        await exchange.send_end()
        return exchange, await exchange.receive_head()

    return ask


def _request_headers(scope: Scope) -> Headers:
    if _is_handshake(scope):
        return handshake_forwarded(scope["headers"])
    headers = forwarded(scope["headers"])
    if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
        headers.append((b"transfer-encoding", b"chunked"))
    return headers


def _answer_headers(head: ResponseHead, prefix: bytes, scope: Scope) -> tuple[Headers, str | None]:
    """Return the headers for the client, and the reason why the answer cannot be passed on, or None."""
    if head.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
        answer = handshake_forwarded(head.headers)
        if not accepts_websocket(head.headers):
            return answer, "it switched to another protocol than the one that was asked for"
    else:
        answer = response_forwarded(head.headers, head.status)
        if head.status not in _STATUSES:
            return answer, f"it answered with the status {head.status}"
    if (name := unsendable(answer)) is not None:
        return answer, f"its header {name} has a control character"
    asked = dict(scope["headers"])
    shared = bool(prefix) or SANDBOX_ID_HEADER.encode() in asked
    return below_prefix(answer, prefix, asked.get(b"host", b""), shared=shared), None


def _is_handshake(scope: Scope) -> bool:
    return client_of(scope).handshake


async def _tunnel(exchange: Exchange, answer: Headers, scope: Scope) -> None:
    transport, received = exchange.switched()
    client = client_of(scope).take_over()
    record = RequestRecord.of(scope)
    record.status = http.HTTPStatus.SWITCHING_PROTOCOLS
    lines = [b"HTTP/1.1 101 " + http.HTTPStatus.SWITCHING_PROTOCOLS.phrase.encode()]
    lines += [b"%b: %b" % header for header in with_request_id(answer, record.id)]
    client.writer.write(b"\r\n".join([*lines, b"", b""]))
    await join(client, Stream.on(transport, received))


async def _upload(exchange: Exchange, receive: Receive) -> None:
    """Forward the request's body, wait until the client leaves, and cut the connection to the sandbox."""
    try:
        await _pass_body(exchange, receive)
    except Exception:
        exchange.abort()  # so that nobody waits for the response
        raise


async def _pass_body(exchange: Exchange, receive: Receive) -> None:
    accepting = True
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            exchange.abort()
            return
        if not accepting:
            continue
        try:
            if body := message.get("body"):
                await exchange.send_body(body)
            if not message.get("more_body"):
                await exchange.send_end()
        except OSError:
            # The application answered without reading the rest, or went away. The response shows which.
            accepting = False
