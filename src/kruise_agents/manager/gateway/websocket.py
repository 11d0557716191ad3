"""Forwarding one WebSocket connection: the handshake with its refusal, then messages both ways."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.http11 import Response
from websockets.typing import Subprotocol

from ...protocol import SandboxTarget
from .headers import Headers, below_prefix, handshake_forwarded, response_forwarded

_NORMAL = 1000
_GOING_AWAY = 1001
_NO_CODE = 1005
_BROKEN = frozenset({1006, 1015})
_BAD_GATEWAY = 1014
MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class _Connect(connect):
    """A connector that leaves redirects to the client."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def forward_websocket(
    connection: socket.socket,
    target: SandboxTarget,
    prefix: bytes,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> str | None:
    """Open the same WebSocket in the sandbox, and pass messages and the end on, in both directions.

    A refusal of the application (any status but 101) reaches the client as it is.

    Parameters:
        connection: a connected socket; closed at the end.
        prefix: what path routing took off the path, or nothing.

    Returns:
        Why the application could not be asked, else None.
    """
    headers = handshake_forwarded(scope["headers"])
    try:
        application = await _Connect(
            f"ws://{_authority(scope)}{target.path}",
            sock=connection,
            additional_headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers],
            subprotocols=[Subprotocol(name) for name in scope["subprotocols"]] or None,
            user_agent_header=None,
            compression=None,
            proxy=None,
            ping_interval=None,
            max_size=MAX_MESSAGE_BYTES,
        )
    except InvalidStatus as refusal:
        answer = refusal.response
        kept = _answered(answer, prefix, scope)
        await send({"type": "websocket.http.response.start", "status": answer.status_code, "headers": kept})
        await send({"type": "websocket.http.response.body", "body": bytes(answer.body or b"")})
        return None
    except (InvalidHandshake, InvalidMessage, OSError, TimeoutError) as error:
        return str(error)
    await receive()  # websocket.connect
    assert application.response is not None  # the handshake is over
    kept = handshake_forwarded(_answered(application.response, prefix, scope))
    await send({"type": "websocket.accept", "subprotocol": application.subprotocol, "headers": kept})
    await _pass_messages(application, receive, send)
    return None


def _answered(answer: Response, prefix: bytes, scope: Scope) -> Headers:
    """The headers of the application's answer to the handshake, for the client."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.raw_items()]
    kept = response_forwarded(raw, answer.status_code)
    return below_prefix(kept, prefix, _authority(scope).encode("latin-1")) if prefix else kept


def _passed_on(code: int | None) -> int:
    """The close code for the other side; some may never stand in a close frame (RFC 6455, section 7.4.1)."""
    if code == _NO_CODE:
        return _NORMAL
    return _BAD_GATEWAY if code is None or code in _BROKEN else code


def _authority(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "sandbox")


async def _pass_messages(application: ClientConnection, receive: Receive, send: Send) -> None:
    """Pass messages until either side closes, then tell the other with the same code and reason."""
    inward = asyncio.create_task(_to_application(application, receive))
    outward = asyncio.create_task(_to_client(application, send))
    try:
        await asyncio.wait({inward, outward}, return_when=asyncio.FIRST_COMPLETED)
        if outward.done():
            await outward
            code = _passed_on(application.close_code)
            await send({"type": "websocket.close", "code": code, "reason": application.close_reason or ""})
        else:
            code, reason = await inward
            await application.close(_passed_on(code), reason)
    finally:
        inward.cancel()
        outward.cancel()
        await asyncio.gather(inward, outward, return_exceptions=True)
        application.transport.abort()


async def _to_application(application: ClientConnection, receive: Receive) -> tuple[int, str]:
    """Returns the code and the reason with which the client closed."""
    while (message := await receive())["type"] == "websocket.receive":
        data = message.get("bytes")
        try:
            await application.send(message["text"] if data is None else data)
        except ConnectionClosed:
            break  # the other direction sees it too and tells the client
    return message.get("code", _GOING_AWAY), message.get("reason") or ""


async def _to_client(application: ClientConnection, send: Send) -> None:
    """Returns when the application has closed, or is gone; its close code says which."""
    with contextlib.suppress(ConnectionClosed):
        async for message in application:
            if isinstance(message, str):
                await send({"type": "websocket.send", "text": message})
            else:
                await send({"type": "websocket.send", "bytes": bytes(message)})
