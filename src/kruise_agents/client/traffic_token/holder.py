"""Holders, which keep and refresh a sandbox object's token, in threads or asyncio. Waiting callers share a refresh."""

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
from .renewal import SEND_NONE, TokenState, TrafficAccessToken


def put_token(headers: MutableMapping[str, str], token: str | None) -> None:
    """Put a token into headers. ``SEND_NONE`` removes the token instead, and None leaves the headers unchanged."""
    if token == SEND_NONE:
        headers.pop(TRAFFIC_TOKEN_HEADER, None)
    elif token is not None:
        headers[TRAFFIC_TOKEN_HEADER] = token


@dataclass(frozen=True, slots=True)
class Answer:
    """The manager's answer to a request for a new token."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _OfOneSandbox:
    """Base class of holders. A holder is of one sandbox, so a copied or unpickled configuration gets None instead."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_holder, ()


def _no_holder() -> None:
    return None


class SyncTokens(_OfOneSandbox):
    """The holder of a ``Sandbox``'s token. The holder is also a request hook of the sandbox's httpx clients."""

    def __init__(self, state: TokenState, fetch: Callable[[], Answer]) -> None:
        self.state = state
        self._fetch = fetch
        # One lock for each process: a lock that another thread holds during a fork stays locked in the child for ever.
        self._locks: dict[int, threading.Lock] = {}

    def __call__(self, request: Any) -> None:
        put_token(request.headers, self.current())

    def current(self) -> str | None:
        seen = self.state.attempts
        if self.state.due:
            self._refresh_unless_done_since(seen)
        return self.state.to_send()

    def refresh(self, force: bool) -> TrafficAccessToken:
        if force:
            self._refresh_unless_done_since(self.state.attempts)
        else:
            self.current()
        return self.state.to_show()

    def _refresh_unless_done_since(self, seen: int) -> None:
        """Refresh the token, unless a refresh has ended since the caller read ``seen`` from ``state.attempts``."""
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if self.state.attempts != seen:
                return
            try:
                answer = self._fetch()
            except Exception as error:  # every failure counts as an attempt without a token
                self.state.failed(_unanswered(error))
            else:
                self.state.answered(answer.status, answer.headers, answer.body)


class AsyncTokens(_OfOneSandbox):
    """The holder of an ``AsyncSandbox``'s token. The holder is also a request hook of the sandbox's httpx clients."""

    def __init__(self, state: TokenState, fetch: Callable[[], Awaitable[Answer]]) -> None:
        self.state = state
        self._fetch = fetch
        # One lock for each loop, because an asyncio lock works in one loop only, and an object of the SDK in several.
        self._locks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()

    async def __call__(self, request: Any) -> None:
        put_token(request.headers, await self.current())

    async def current(self) -> str | None:
        seen = self.state.attempts
        if self.state.due:
            await self._refresh_unless_done_since(seen)
        return self.state.to_send()

    async def refresh(self, force: bool) -> TrafficAccessToken:
        if force:
            await self._refresh_unless_done_since(self.state.attempts)
        else:
            await self.current()
        return self.state.to_show()

    async def _refresh_unless_done_since(self, seen: int) -> None:
        async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if self.state.attempts != seen:
                return
            try:
                answer = await self._fetch()
            except Exception as error:  # a cancellation is no Exception, and no attempt
                self.state.failed(_unanswered(error))
            else:
                self.state.answered(answer.status, answer.headers, answer.body)


Tokens = SyncTokens | AsyncTokens


def _unanswered(error: Exception) -> TrafficAccessTokenRefreshError:
    failure = TrafficAccessTokenRefreshError(f"traffic access token refresh got no answer: {type(error).__name__}")
    failure.__cause__ = error
    return failure
