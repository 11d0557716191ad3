"""Wrappers of the places where the SDK's errors arise, which explain the errors, and of the first request after a fork.

No wrapper does anything but a call on the way of a success. :mod:`..explanations` is imported when an error arises.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from ..seams import ABSENT, wrap_getter
from ..warnings import ForkWarning, notify

Place = tuple[str, str, str]
"""The module, the class and the name of a method that the class has itself or inherits."""


def wrap_exception(place: Place) -> Callable[[Any], Callable[..., None]]:
    """Wrap ``__init__`` of an exception of the SDK: the exception's text is explained."""

    def replace(original: Any) -> Callable[..., None]:
        native = _own_or_inherited(original, place)

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            native(self, *args, **kwargs)
            from ..explanations import explain_sdk

            explain_sdk(self)

        return _named(__init__, original)

    return replace


def wrap_request(place: Place, hangs: bool) -> Callable[[Any], Callable[..., Any]]:
    """Wrap the method of a transport that sends a request: its exceptions are explained.

    ``hangs``: whether the transport hangs in a process that was forked after a request (those of pyqwest do).
    """

    def replace(original: Any) -> Callable[..., Any]:
        native = _own_or_inherited(original, place)

        def send(self: Any, request: Any) -> Any:
            if hangs:
                _forks.note_request()
            try:
                return native(self, request)
            except Exception as error:
                from ..explanations import explain

                explain(error, str(request.url))
                raise

        return _named(send, original)

    return replace


def wrap_async_request(place: Place, hangs: bool) -> Callable[[Any], Callable[..., Any]]:
    """Wrap the method of an async transport, as :func:`wrap_request` does for a transport."""

    def replace(original: Any) -> Callable[..., Any]:
        native = _own_or_inherited(original, place)

        async def send(self: Any, request: Any) -> Any:
            if hangs:
                _forks.note_request()
            try:
                return await native(self, request)
            except Exception as error:
                from ..explanations import explain_async

                await explain_async(error, str(request.url))
                raise

        return _named(send, original)

    return replace


def wrap_call(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that makes transports, or sends code: its exceptions are explained."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except Exception as error:
            from ..explanations import explain

            explain(error, _url_of(error))
            raise

    return call


def wrap_async_call(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an async function, as :func:`wrap_call` does for a function."""

    @functools.wraps(original)
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return await original(*args, **kwargs)
        except Exception as error:
            from ..explanations import explain_async

            await explain_async(error, _url_of(error))
            raise

    return call


def wrap_rpc_exception(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``handle_rpc_exception``, which returns an exception, also that of a connection lost during a call."""

    @functools.wraps(original)
    def handle(*args: Any, **kwargs: Any) -> Any:
        error = original(*args, **kwargs)
        from ..explanations import explain_sdk

        explain_sdk(error)
        return error

    return handle


def wrap_pool(original: property) -> property:
    """Wrap ``pool`` of a transport: the RPC clients up to e2b 2.34.0 send their requests to it."""
    return wrap_getter(original, lambda transport, pool: ExplainedPool(pool))


def wrap_async_pool(original: property) -> property:
    """Wrap ``pool`` of an async transport, as :func:`wrap_pool` does."""
    return wrap_getter(original, lambda transport, pool: AsyncExplainedPool(pool))


def no_run_code(original: Any) -> Any:
    """Make an attribute ``run_code`` of sandboxes without code interpreter: as absent as before, and with an advice."""
    return _NoRunCode() if original is ABSENT else original


class ExplainedPool:
    """A pool of httpcore whose exceptions are explained."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def request(self, *args: Any, **kwargs: Any) -> Any:
        with _explained(kwargs.get("url")):
            return self._pool.request(*args, **kwargs)

    @contextlib.contextmanager
    def stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with _explained(kwargs.get("url")), self._pool.stream(*args, **kwargs) as response:
            yield response


class AsyncExplainedPool:
    """An async pool of httpcore whose exceptions are explained."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        async with _explained_async(kwargs.get("url")):
            return await self._pool.request(*args, **kwargs)

    @contextlib.asynccontextmanager
    async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with _explained_async(kwargs.get("url")), self._pool.stream(*args, **kwargs) as response:
            yield response


@contextlib.contextmanager
def _explained(url: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        from ..explanations import explain

        explain(error, str(url or ""))
        raise


@contextlib.asynccontextmanager
async def _explained_async(url: Any) -> AsyncIterator[None]:
    try:
        yield
    except Exception as error:
        from ..explanations import explain_async

        await explain_async(error, str(url or ""))
        raise


class _NoRunCode:
    def __get__(self, sandbox: Any, owner: type) -> Any:
        shown = f"type object {owner.__name__!r}" if sandbox is None else f"{owner.__name__!r} object"
        message = f"{shown} has no attribute 'run_code'"
        raise AttributeError(
            f"{message}\nkruise-agents: the package e2b_code_interpreter has the sandbox that runs code: "
            f"from e2b_code_interpreter import {owner.__name__}",
            name="run_code",
            obj=owner if sandbox is None else sandbox,
        )


class _Forks:
    """Knowledge about forks: from e2b 2.38.0 on, a request hangs in a child of a process that has made one."""

    def __init__(self) -> None:
        self.requested = False
        self.suspect = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self.suspect = self.requested

    def note_request(self) -> None:
        if self.suspect:
            self.suspect = False
            self._warn()
        self.requested = True

    def _warn(self) -> None:
        notify(
            "this process was forked from a process that had used the E2B SDK, and the SDK's requests hang in such a "
            "process (e2b 2.38.0 and later; commands from 2.35.0 on). Fork before the first request, or start "
            "processes with 'spawn' or 'forkserver' and call patch_e2b() in each",
            ForkWarning,
        )


_forks = _Forks()


def _own_or_inherited(original: Any, place: Place) -> Callable[..., Any]:
    if original is not ABSENT:
        own: Callable[..., Any] = original
        return own
    module, owner, name = place

    def inherited(self: Any, *args: Any, **kwargs: Any) -> Any:
        cls = getattr(importlib.import_module(module), owner)
        return getattr(super(cls, self), name)(*args, **kwargs)

    return inherited


def _named(replacement: Callable[..., Any], original: Any) -> Callable[..., Any]:
    return replacement if original is ABSENT else functools.update_wrapper(replacement, original)


def _url_of(error: Exception) -> str:
    try:
        return str(error.request.url)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # httpx raises the second if an error has no request
        return ""
