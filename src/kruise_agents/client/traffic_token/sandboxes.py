"""Replacements in sandbox objects. Outside debug mode, an object's HTTP clients get the token from a :mod:`.holder`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from ...protocol.names import PROTECT_KEY
from ..seams import wrap_getter, wrap_result
from .errors import TrafficAccessTokenError
from .fetch import copy_of, fetch, fetch_async
from .holder import AsyncTokens, SyncTokens, Tokens
from .renewal import TokenState, TrafficAccessToken

_HOLDER = "_kruise_agents_traffic_tokens"


def tokens_of(config: Any) -> Tokens | None:
    """Return the token holder of a sandbox's configuration; None if the sandbox was made unpatched or in debug mode."""
    holder = getattr(config, _HOLDER, None)
    return holder if isinstance(holder, SyncTokens | AsyncTokens) else None


class SandboxHeaders(dict[str, str]):
    """Headers of requests to a sandbox's ports. RPC clients keep this very object and read its attribute ``tokens``."""

    tokens: Tokens

    def __init__(self, headers: dict[str, str], tokens: Tokens) -> None:
        super().__init__(headers)
        self.tokens = tokens


def wrap_sandbox(original: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``Sandbox.__init__``: make the token's holder, and make the holder a request hook of the httpx clients."""
    return _wrap_init(original, lambda sandbox, state: SyncTokens(state, lambda: fetch(sandbox)))


def wrap_async_sandbox(original: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``AsyncSandbox.__init__``, as :func:`wrap_sandbox` does for ``Sandbox``."""
    return _wrap_init(original, lambda sandbox, state: AsyncTokens(state, lambda: fetch_async(sandbox)))


def wrap_sandbox_headers(original: property) -> property:
    """Wrap ``ConnectionConfig.sandbox_headers``: if there is a token holder, return :class:`SandboxHeaders`."""
    # Only clients of sandbox ports use this property.

    def with_tokens(config: Any, headers: dict[str, str]) -> dict[str, str]:
        tokens = tokens_of(config)
        return headers if tokens is None else SandboxHeaders(headers, tokens)

    return wrap_getter(original, with_tokens)


def wrap_traffic_access_token(original: property) -> property:
    """Wrap ``SandboxBase.traffic_access_token``: return the newest token, for the program's own requests."""

    def newest(sandbox: Any, token: Any) -> Any:
        tokens = tokens_of(sandbox.connection_config)
        return token if tokens is None else tokens.state.token

    return wrap_getter(original, newest)


def wrap_client(original: property) -> property:
    """Wrap ``_client`` of the code interpreter: its httpx clients get the token from a :mod:`.holder`."""
    return wrap_getter(original, lambda sandbox, client: _hooked(client, tokens_of(sandbox.connection_config)))


def wrap_create_envd_api(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``_create_envd_api``: each thread's httpx client gets the token from a :mod:`.holder`."""

    def hooked(part: Any, client: Any) -> Any:
        return _hooked(client, tokens_of(getattr(part, "_connection_config", None) or part.connection_config))

    return wrap_result(original, hooked)


def wrap_method_variant(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``class_method_variant.__get__``, through which the SDK finds ``connect`` of a class or an object.

    For a protected sandbox, the manager's answer to ``connect`` contains no token. So if an object has no token after
    ``connect``, the patch asks the API whether the sandbox is protected.
    """

    def asking(variant: Any, method: Any) -> Any:
        return _then_ask(method) if variant.class_method_name.startswith("_cls_connect") else method

    return wrap_result(original, asking)


def refresh_traffic_access_token(self: Any, force: bool = False) -> TrafficAccessToken:
    """Return the traffic access token, which is refreshed first if a refresh is due or ``force`` is true.

    If the refresh fails while the old token is valid, return the old token. In debug mode, return an empty token.
    """
    tokens = _tokens_of_object(self)
    return tokens.refresh(force) if isinstance(tokens, SyncTokens) else TrafficAccessToken("")


async def refresh_traffic_access_token_async(self: Any, force: bool = False) -> TrafficAccessToken:
    """Return the token of an ``AsyncSandbox``, as :func:`refresh_traffic_access_token` does for a ``Sandbox``."""
    tokens = _tokens_of_object(self)
    return await tokens.refresh(force) if isinstance(tokens, AsyncTokens) else TrafficAccessToken("")


def _tokens_of_object(sandbox: Any) -> Tokens | None:
    config = sandbox.connection_config
    tokens = tokens_of(config)
    if tokens is None and not config.debug:
        raise TrafficAccessTokenError(
            "this sandbox object was made before patch_traffic_access_token(); make it again with connect()"
        )
    return tokens


def _wrap_init(original: Callable[..., None], new_tokens: Callable[[Any, TokenState], Tokens]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(self: Any, **opts: Any) -> None:
        config = opts.get("connection_config")
        if config is None or config.debug:
            original(self, **opts)
            return
        if tokens_of(config) is not None:
            # The program reuses the configuration of another sandbox object. Neither object may send the other's token.
            config = opts["connection_config"] = copy_of(config)
        token = opts.get("traffic_access_token")
        tokens = new_tokens(self, TokenState(token if isinstance(token, str) and token else None))
        setattr(config, _HOLDER, tokens)
        original(self, **opts)
        for part in (self, self.files, self.commands, self.pty):
            for client in vars(part).values():
                _hooked(client, tokens)

    return __init__


def _hooked(client: Any, tokens: Tokens | None) -> Any:
    """Make an httpx client call ``tokens`` before each request, and return the client. Leave other objects alone."""
    hooks = getattr(client, "event_hooks", None)
    if tokens is not None and isinstance(hooks, dict) and tokens not in hooks["request"]:
        client.event_hooks = {**hooks, "request": [*hooks["request"], tokens]}
    return client


def _then_ask(connect: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(connect)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = connect(*args, **kwargs)
        if inspect.iscoroutine(result):
            return _ask_async(result)
        if _may_need_token(result):
            _require_if_protected(result, result.get_info())
        return result

    return wrapped


async def _ask_async(connecting: Coroutine[Any, Any, Any]) -> Any:
    sandbox = await connecting
    if _may_need_token(sandbox):
        _require_if_protected(sandbox, await sandbox.get_info())
    return sandbox


def _may_need_token(sandbox: Any) -> bool:
    tokens = tokens_of(getattr(sandbox, "connection_config", None))
    return tokens is not None and tokens.state.token is None


def _require_if_protected(sandbox: Any, info: Any) -> None:
    tokens = tokens_of(sandbox.connection_config)
    if tokens is not None and (info.metadata or {}).get(PROTECT_KEY) == "true":
        tokens.state.require()
