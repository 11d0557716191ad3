"""The body of a request, and the end of the client's connection, as the ASGI server reports them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.types import Receive


class ClientGoneError(Exception):
    """A connection that the client has closed, so that nobody can be answered."""


async def body_chunks(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the pieces of the body in order. Raise ClientGoneError if the client leaves before the last piece."""
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGoneError
        if chunk := event.get("body", b""):
            yield chunk
        more = event.get("more_body", False)


async def whole_body(receive: Receive) -> bytes:
    """Return the whole body. Raise ClientGoneError if the client leaves before the last piece."""
    return b"".join([chunk async for chunk in body_chunks(receive)])


@contextlib.asynccontextmanager
async def gone_while(receive: Receive) -> AsyncIterator[None]:
    """Cancel the ``async with`` block and raise ClientGoneError when the client closes the connection.

    The body must have been read before the block.
    """
    task = asyncio.current_task()
    assert task is not None  # coroutines run in tasks
    gone = False

    def interrupt(_: object) -> None:
        nonlocal gone
        gone = True
        task.cancel()

    watcher = asyncio.create_task(_disconnected(receive))
    watcher.add_done_callback(interrupt)
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
        raise ClientGoneError from None
    finally:
        watcher.remove_done_callback(interrupt)
        watcher.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
