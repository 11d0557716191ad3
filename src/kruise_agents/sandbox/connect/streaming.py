"""Calls with a stream in one direction. Their answer has HTTP status 200, and an error goes into the last frame."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from starlette.types import Receive, Send

from .body import ClientGoneError, body_chunks, gone_while
from .call import Call, as_connect_error
from .errors import Code, ConnectError
from .framing import END_OF_STREAM, MESSAGE, Envelope, EnvelopeDecoder, request_payload
from .message import Message
from .response import STREAM_TYPE, Json, encode_json


class _Reply:
    """A response in frames. The first frame starts the response, and each frame is one write."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False

    async def message(self, message: Json) -> None:
        await self._frame(Envelope(MESSAGE, encode_json(message)))

    async def end(self, error: ConnectError | None = None) -> None:
        """Send the end frame and end the body. The SDKs wait for the end of the body."""
        final = {"error": error.to_json()} if error else {}
        await self._frame(Envelope(END_OF_STREAM, encode_json(final)), more=False)

    async def _frame(self, envelope: Envelope, more: bool = True) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", STREAM_TYPE.encode())]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": envelope.encode(), "more_body": more})


async def answer_with_stream(
    handle: Callable[[Message, Call], AsyncGenerator[Json, None]], call: Call, receive: Receive, send: Send
) -> None:
    """Pass one message to the handler. Send the handler's messages, then the end frame. Stop if the client leaves."""
    reply = _Reply(send)
    failure: ConnectError | None = None
    try:
        async with asyncio.timeout_at(call.deadline):
            request = await _only_message(receive)
            async with gone_while(receive), contextlib.aclosing(handle(request, call)) as messages:
                async for message in messages:
                    await reply.message(message)
    except ClientGoneError:
        return
    except Exception as error:  # the client's stream must end with an error frame in every case
        failure = as_connect_error(error, call)
    await reply.end(failure)


async def answer_to_stream(
    handle: Callable[[AsyncIterator[Message], Call], Awaitable[Json]],
    call: Call,
    receive: Receive,
    send: Send,
) -> None:
    """Give the handler the client's messages. Send the result and an end frame, or only an end frame with the error."""
    reply = _Reply(send)
    failure: ConnectError | None = None
    try:
        async with asyncio.timeout_at(call.deadline):
            await reply.message(await handle(_messages(receive), call))
    except ClientGoneError:
        return
    except Exception as error:  # the client's stream must end with an error frame in every case
        failure = as_connect_error(error, call)
    await reply.end(failure)


async def refuse(send: Send, error: ConnectError) -> None:
    """Send a response that has only the end frame, with an error."""
    await _Reply(send).end(error)


async def _messages(receive: Receive) -> AsyncIterator[Message]:
    decoder = EnvelopeDecoder()
    async for chunk in body_chunks(receive):
        for envelope in decoder.feed(chunk):
            yield Message.decode(request_payload(envelope))
    decoder.finish()


async def _only_message(receive: Receive) -> Message:
    messages = [message async for message in _messages(receive)]
    if len(messages) != 1:
        raise ConnectError(Code.UNIMPLEMENTED, f"protocol error: {len(messages)} request messages instead of one")
    return messages[0]
