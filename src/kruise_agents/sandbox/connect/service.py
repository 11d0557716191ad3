"""The ASGI application of a service: it picks the method, checks the request, and calls the handler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from . import streaming
from .body import ClientGoneError, whole_body
from .call import TIMEOUT_HEADER, Call, as_connect_error, parse_timeout
from .errors import Code, ConnectError
from .message import Message
from .response import STREAM_TYPE, UNARY_TYPE, Json, send_plain, send_unary, send_unary_error


@dataclass(frozen=True, slots=True)
class Unary:
    """A method that takes one message and returns one message."""

    handle: Callable[[Message, Call], Awaitable[Json]]


@dataclass(frozen=True, slots=True)
class ServerStream:
    """A method that takes one message and yields messages. It stops if the client leaves or the deadline passes."""

    handle: Callable[[Message, Call], AsyncGenerator[Json, None]]


@dataclass(frozen=True, slots=True)
class ClientStream:
    """A method that takes any number of messages and returns one message."""

    handle: Callable[[AsyncIterator[Message], Call], Awaitable[Json]]


Method: TypeAlias = Unary | ServerStream | ClientStream


class ConnectService:
    """An ASGI application for one service, to be mounted on ``/<package>.<Service>``.

    ``methods`` has the methods by name. ``check`` runs before each handler, and raises ConnectError to refuse a call.
    """

    def __init__(self, methods: Mapping[str, Method], check: Callable[[Call], object] = lambda call: None) -> None:
        self._methods = methods
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix("/")
        method = self._methods.get(name)
        if method is None:
            # Some clients look at the status only, others at the code in the body.
            await send_unary_error(send, ConnectError(Code.UNIMPLEMENTED, f"unknown method {name!r}"), status=404)
        elif scope["method"] != "POST":
            await send_plain(send, 405, f"{scope['method']} is not allowed here, only POST", (b"allow", b"POST"))
        elif not _speaks(method, headers := Headers(scope=scope)):
            wanted = _wanted_type(method)
            text = f"unsupported content type {headers.get('content-type', '')!r}, expected {wanted}"
            await send_plain(send, 415, text, (b"accept-post", wanted.encode()))
        else:
            await self._answer(method, headers, receive, send)

    async def _answer(self, method: Method, headers: Headers, receive: Receive, send: Send) -> None:
        streams = not isinstance(method, Unary)
        try:
            _require_known_protocol(headers, "connect-content-encoding" if streams else "content-encoding")
            timeout = parse_timeout(headers.get(TIMEOUT_HEADER))
            call = Call(headers, asyncio.get_running_loop().time() + timeout if timeout else None)
            self._check(call)
        except ConnectError as error:
            if streams:
                await streaming.refuse(send, error)
            else:
                await send_unary_error(send, error)
            return
        match method:
            case Unary(handle):
                await _answer_unary(handle, call, receive, send)
            case ServerStream(handle):
                await streaming.answer_with_stream(handle, call, receive, send)
            case ClientStream(handle):
                await streaming.answer_to_stream(handle, call, receive, send)


async def _answer_unary(
    handle: Callable[[Message, Call], Awaitable[Json]], call: Call, receive: Receive, send: Send
) -> None:
    try:
        async with asyncio.timeout_at(call.deadline):
            reply = await handle(Message.decode(await whole_body(receive)), call)
    except ClientGoneError:
        return
    except Exception as error:  # the client must get an answer in every case
        await send_unary_error(send, as_connect_error(error, call))
    else:
        await send_unary(send, reply)


def _wanted_type(method: Method) -> str:
    return UNARY_TYPE if isinstance(method, Unary) else STREAM_TYPE


def _speaks(method: Method, headers: Headers) -> bool:
    media_type, _, parameters = headers.get("content-type", "").lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "")
    return media_type.strip() == _wanted_type(method) and charset in ("", "charset=utf-8")


def _require_known_protocol(headers: Headers, encoding_header: str) -> None:
    version = headers.get("connect-protocol-version", "1")
    if version != "1":
        raise ConnectError(
            Code.INVALID_ARGUMENT, f"protocol error: Connect-Protocol-Version must be '1', not {version!r}"
        )
    encoding = headers.get(encoding_header, "identity")
    if encoding not in ("", "identity"):
        raise ConnectError(Code.UNIMPLEMENTED, f"unknown compression {encoding!r}: supported encodings are identity")
