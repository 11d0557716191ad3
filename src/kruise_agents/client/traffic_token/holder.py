"""Who holds the token of a sandbox object, for threads or for tasks: one refresh at a time, shared by all who wait."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from ...protocol.names import TRAFFIC_TOKEN_HEADER
from .errors import TrafficAccessTokenRefreshError
from .token import SEND_NONE, TokenState, TrafficAccessToken


def put_token(headers: MutableMapping[str, str], token: str | None) -> None:
    """Put what :meth:`TokenState.to_send` gave on the headers of a request; no expired token stays on them."""
    if token == SEND_NONE:
        headers.pop(TRAFFIC_TOKEN_HEADER, None)
    elif token is not None:
        headers[TRAFFIC_TOKEN_HEADER] = token


@dataclass(frozen=True, slots=True)
class Answer:
    """The server's answer to a refresh."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _OfOneSandbox:
    """What cannot be copied: a copy of a configuration belongs to no sandbox yet, and has no holder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_holder, ()


def _no_holder() -> None:
    return None


class SyncTokens(_OfOneSandbox):
    """The holder of a ``Sandbox``; also a request hook of its httpx clients.

    Parameters:
        fetch: asks the server for a new token.
    """

    def __init__(self, state: TokenState, fetch: Callable[[], Answer]) -> None:
        self.state = state
        self._fetch = fetch
        # A lock that a thread holds while another one forks stays locked in the child for ever.
        self._locks: dict[int, threading.Lock] = {}

    def __call__(self, request: Any) -> None:
        """Put the current token on an httpx request that is about to be sent."""
        put_token(request.headers, self.current())

    def current(self) -> str | None:
        """The token for a request that is sent now, refreshed first when it is due.

        Raises:
            TrafficAccessTokenExpired: there is no valid one, so nothing must be sent.
        """
        seen = self.state.attempts
        if self.state.due:
            self._refresh_unless_done_since(seen)
        return self.state.to_send()

    def refresh(self, force: bool) -> TrafficAccessToken:
        """The newest token; ``force`` fetches one whatever the schedule and the backoff say."""
        if not force:
            self.current()
            return self.state.to_show()
        self._refresh_unless_done_since(self.state.attempts)
        return self.state.to_show()

    def _refresh_unless_done_since(self, seen: int) -> None:
        """What ended while a caller waited is its own too, though a token of a minute is due again at once."""
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if self.state.attempts == seen:
                self._refresh()

    def _refresh(self) -> None:
        try:
            answer = self._fetch()
        except Exception as error:  # whatever it was, no token came; the cause goes along
            self.state.failed(_unanswered(error))
        else:
            self.state.answered(answer.status, answer.headers, answer.body)


class AsyncTokens(_OfOneSandbox):
    """The holder of an ``AsyncSandbox``; also a request hook of its httpx clients.

    Parameters:
        fetch: asks the server for a new token.
    """

    def __init__(self, state: TokenState, fetch: Callable[[], Awaitable[Answer]]) -> None:
        self.state = state
        self._fetch = fetch
        # An asyncio lock belongs to one loop, an object of the SDK does not.
        self._locks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()

    async def __call__(self, request: Any) -> None:
        """Put the current token on an httpx request that is about to be sent."""
        put_token(request.headers, await self.current())

    async def current(self) -> str | None:
        """The token for a request that is sent now, refreshed first when it is due.

        Raises:
            TrafficAccessTokenExpired: there is no valid one, so nothing must be sent.
        """
        seen = self.state.attempts
        if self.state.due:
            await self._refresh_unless_done_since(seen)
        return self.state.to_send()

    async def refresh(self, force: bool) -> TrafficAccessToken:
        """The newest token; ``force`` fetches one whatever the schedule and the backoff say."""
        if not force:
            await self.current()
            return self.state.to_show()
        await self._refresh_unless_done_since(self.state.attempts)
        return self.state.to_show()

    async def _refresh_unless_done_since(self, seen: int) -> None:
        async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if self.state.attempts == seen:
                await self._refresh()

    async def _refresh(self) -> None:
        # A cancellation is no Exception: it passes through and counts as nothing.
        try:
            answer = await self._fetch()
        except Exception as error:  # whatever it was, no token came; the cause goes along
            self.state.failed(_unanswered(error))
        else:
            self.state.answered(answer.status, answer.headers, answer.body)


Tokens = SyncTokens | AsyncTokens


def _unanswered(error: Exception) -> TrafficAccessTokenRefreshError:
    failure = TrafficAccessTokenRefreshError(f"traffic access token refresh got no answer: {type(error).__name__}")
    failure.__cause__ = error
    return failure
