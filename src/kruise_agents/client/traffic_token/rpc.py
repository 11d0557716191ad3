"""Replacements in the SDK's RPC clients, which put the current traffic access token into the headers of a call.

Up to e2b 2.34.0 the replacements are in ``e2b_connect.Client``, from 2.35.0 on in ``DefaultHeadersInterceptor``, the
SDK's interceptor for connectrpc. Objects of both classes keep a :class:`.SandboxHeaders`, which has the token's holder.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from .holder import AsyncTokens, SyncTokens, put_token

Stream = Any
"""An async generator of the SDK."""


def wrap_call(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``call_unary`` and ``call_server_stream`` of ``e2b_connect.Client``."""

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        tokens = _sync_tokens(self)
        return original(self, *args, **kwargs if tokens is None else _with(tokens.current(), kwargs))

    return call


def wrap_async_call(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``acall_unary`` of ``e2b_connect.Client``."""

    @functools.wraps(original)
    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        tokens = _async_tokens(self)
        return await original(self, *args, **kwargs if tokens is None else _with(await tokens.current(), kwargs))

    return acall


def wrap_async_stream_call(original: Callable[..., Stream]) -> Callable[..., Stream]:
    """Wrap ``acall_server_stream`` of ``e2b_connect.Client``."""

    @functools.wraps(original)
    def acall(self: Any, *args: Any, **kwargs: Any) -> Stream:
        tokens = _async_tokens(self)
        if tokens is None:
            return original(self, *args, **kwargs)
        return _stream(tokens, lambda token: original(self, *args, **_with(token, kwargs)))

    return acall


def wrap_intercept(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``intercept_unary_sync`` and ``intercept_server_stream_sync`` of ``DefaultHeadersInterceptor``."""

    @functools.wraps(original)
    def intercept(self: Any, call_next: Any, request: Any, ctx: Any) -> Any:
        if (tokens := _sync_tokens(self)) is not None:
            put_token(ctx.request_headers, tokens.current())
        return original(self, call_next, request, ctx)

    return intercept


def wrap_async_intercept(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``intercept_unary`` of ``DefaultHeadersInterceptor``."""

    @functools.wraps(original)
    async def intercept(self: Any, call_next: Any, request: Any, ctx: Any) -> Any:
        if (tokens := _async_tokens(self)) is not None:
            put_token(ctx.request_headers, await tokens.current())
        return await original(self, call_next, request, ctx)

    return intercept


def wrap_async_stream_intercept(original: Callable[..., Stream]) -> Callable[..., Stream]:
    """Wrap ``intercept_server_stream`` of ``DefaultHeadersInterceptor``."""

    @functools.wraps(original)
    def intercept(self: Any, call_next: Any, request: Any, ctx: Any) -> Stream:
        tokens = _async_tokens(self)
        if tokens is None:
            return original(self, call_next, request, ctx)

        def start(token: str | None) -> Stream:
            put_token(ctx.request_headers, token)
            return original(self, call_next, request, ctx)

        return _stream(tokens, start)

    return intercept


def _sync_tokens(client: Any) -> SyncTokens | None:
    tokens = getattr(client._headers, "tokens", None)
    return tokens if isinstance(tokens, SyncTokens) else None


def _async_tokens(client: Any) -> AsyncTokens | None:
    tokens = getattr(client._headers, "tokens", None)
    return tokens if isinstance(tokens, AsyncTokens) else None


def _with(token: str | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    if token is None:
        return kwargs
    headers = dict(kwargs.get("headers") or {})
    put_token(headers, token)
    return {**kwargs, "headers": headers}


def _stream(tokens: AsyncTokens, start: Callable[[str | None], Stream]) -> Stream:
    """Return the SDK's own stream, or a stream that first refreshes the token if a refresh is due."""
    return _after_refresh(tokens, start) if tokens.state.due else start(tokens.state.to_send())


async def _after_refresh(tokens: AsyncTokens, start: Callable[[str | None], Stream]) -> AsyncIterator[Any]:
    async with aclosing(start(await tokens.current())) as stream:
        async for message in stream:
            yield message
