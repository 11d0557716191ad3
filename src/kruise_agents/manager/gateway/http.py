"""Forwarding one HTTP request: body and response as streams, disconnects of either side passed on."""

from __future__ import annotations

import asyncio
import socket

import h11
from starlette.types import Receive, Scope, Send

from ...protocol import SandboxTarget
from ..http_client import Exchange
from .headers import below_prefix, forwarded, request_framing, response_forwarded

_STATUSES = range(200, 600)


async def forward_http(
    connection: socket.socket,
    target: SandboxTarget,
    prefix: bytes,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> str | None:
    """Send the request to the other end of ``connection`` and its response back, neither held in memory.

    When the client goes away the connection is cut, which is how a sandbox learns of it. When the sandbox goes away
    after the response has begun, the client's connection is cut, as a server of that port would have done.

    Parameters:
        connection: a connected socket; closed at the end.
        prefix: what path routing took off the path, or nothing.

    Returns:
        Why no response came, when none was begun and the client still waits for one, else None.

    Raises:
        ResponseCutError: the sandbox went away in the middle of its response.
    """
    exchange = await Exchange.on(connection)
    headers = forwarded(scope["headers"])
    authority = next((value for name, value in headers if name == b"host"), b"")
    if request_framing(headers) is None and _is_chunked(scope):
        headers.append((b"transfer-encoding", b"chunked"))
    upload: asyncio.Task[bool] | None = None
    begun = False
    try:
        await exchange.send_head(scope["method"], target.path.encode("latin-1"), headers)
        upload = asyncio.create_task(_upload(exchange, receive))
        head = await exchange.receive_head()
        if head.status_code not in _STATUSES:
            return f"it answered with the status {head.status_code}"
        answer = response_forwarded(head.headers, head.status_code)
        if prefix:
            answer = below_prefix(answer, prefix, authority)
        begun = True
        await send({"type": "http.response.start", "status": head.status_code, "headers": answer})
        async for piece in exchange.receive_body():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except (h11.RemoteProtocolError, h11.LocalProtocolError, OSError) as error:
        if upload is not None and upload.done() and upload.result():
            return None  # the client left first; nobody waits for an answer
        if begun:
            raise ResponseCutError(str(error)) from error
        return str(error)
    finally:
        if upload is not None:
            upload.cancel()
        exchange.close()
    return None


class ResponseCutError(Exception):
    """The sandbox went away in the middle of a response; the server cuts the client's connection."""


def _is_chunked(scope: Scope) -> bool:
    return any(name == b"transfer-encoding" for name, _ in scope["headers"])


async def _upload(exchange: Exchange, receive: Receive) -> bool:
    """Pass the request's body on, then wait for the client to leave; cut the stream when it does.

    Returns:
        True: this ends only when the client has left (or when the task is cancelled).
    """
    taking = True
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            exchange.abort()
            return True
        if not taking:
            continue
        try:
            if body := message.get("body"):
                await exchange.send_body(body)
            if not message.get("more_body"):
                await exchange.send_end()
        except (OSError, h11.LocalProtocolError):
            # The sandbox answered without reading on, or went away. Its response, or the lack of one, tells which.
            taking = False
