"""Calls with one message each way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.types import Receive, Send

from .body import ClientGoneError, whole_body
from .call import Call
from .errors import ConnectError
from .failures import as_connect_error
from .message import Message
from .response import send_unary, send_unary_error


async def answer(
    handle: Callable[[Message, Call], Awaitable[Mapping[str, Any]]], call: Call, receive: Receive, send: Send
) -> None:
    """Read the message, call the handler, send what it returns or raises."""
    try:
        async with asyncio.timeout_at(call.deadline):
            reply = await handle(Message.decode(await whole_body(receive)), call)
    except ClientGoneError:
        return
    except ConnectError as error:
        await send_unary_error(send, error)
    except Exception as error:  # the client must get an answer in every case
        await send_unary_error(send, as_connect_error(error, call))
    else:
        await send_unary(send, reply)
