"""The table of what ``patch_traffic_access_token`` changes in the SDK; no target is also one of ``patch_e2b``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ..addresses.table import ANY_SIGNATURE, CODE_INTERPRETER, E2B, Kind, Place, Signature, Target
from .refresh import ASYNC_API, SYNC_API
from .rpc import (
    wrap_async_call,
    wrap_async_intercept,
    wrap_async_stream_call,
    wrap_async_stream_intercept,
    wrap_call,
    wrap_intercept,
)
from .sandboxes import (
    refresh_traffic_access_token,
    refresh_traffic_access_token_async,
    wrap_async_sandbox,
    wrap_client,
    wrap_create_envd_api,
    wrap_method_variant,
    wrap_sandbox,
    wrap_sandbox_headers,
    wrap_traffic_access_token,
)

METHOD = "refresh_traffic_access_token"

_CONFIG = ("e2b.connection_config", "ConnectionConfig")
_BASE = ("e2b.sandbox.main", "SandboxBase")
_SANDBOX = ("e2b.sandbox_sync.main", "Sandbox")
_ASYNC_SANDBOX = ("e2b.sandbox_async.main", "AsyncSandbox")
_FILES = ("e2b.sandbox_sync.filesystem.filesystem", "Filesystem")
_COMMANDS = ("e2b.sandbox_sync.commands.command", "Commands")
_PTY = ("e2b.sandbox_sync.commands.pty", "Pty")
_CONNECT = ("e2b_connect.client", "Client")
_INTERCEPTOR = ("e2b.envd.interceptors", "DefaultHeadersInterceptor")
_RPC = Signature(("call_next", "request", "ctx"), complete=True)

Replace = Callable[[Any], Any]


def _function(
    seam: str,
    owner: tuple[str, str],
    attribute: str,
    replace: Replace,
    signature: Signature,
    since: str = "2.8.0",
    until: str | None = None,
) -> Target:
    place = Place(E2B, *owner, attribute, Kind.FUNCTION, since, until, signature)
    return Target(seam, place, replace)


def _property(
    seam: str, owner: tuple[str, str], attribute: str, replace: Replace, package: str = E2B, since: str = "2.8.0"
) -> Target:
    return Target(seam, Place(package, *owner, attribute, Kind.PROPERTY, since), replace)


def _connect(attribute: str, replace: Replace) -> Target:
    return _function("T5", _CONNECT, attribute, replace, ANY_SIGNATURE, until="2.34.0")


def _intercept(attribute: str, replace: Replace) -> Target:
    return _function("T6", _INTERCEPTOR, attribute, replace, _RPC, since="2.35.0")


def _per_thread(owner: tuple[str, str], since: str, until: str = "2.37.1") -> Target:
    return _function("T4", owner, "_create_envd_api", wrap_create_envd_api, ANY_SIGNATURE, since=since, until=until)


def _jupyter(module: str, owner: str) -> Target:
    return _property(
        "T7", (f"e2b_code_interpreter.{module}", owner), "_client", wrap_client, CODE_INTERPRETER, since="2.4.1"
    )


TARGETS: tuple[Target, ...] = (
    _property("T1", _CONFIG, "sandbox_headers", wrap_sandbox_headers),
    _property("T2", _BASE, "traffic_access_token", wrap_traffic_access_token),
    _function(
        "T3",
        ("e2b.sandbox.utils", "class_method_variant"),
        "__get__",
        wrap_method_variant,
        Signature(("obj", "objtype"), complete=True),
    ),
    _per_thread(_SANDBOX, "2.28.1", until="2.28.1"),
    _per_thread(_FILES, "2.28.1"),
    _per_thread(_COMMANDS, "2.29.1"),
    _per_thread(_PTY, "2.29.1"),
    _connect("call_unary", wrap_call),
    _connect("call_server_stream", wrap_call),
    _connect("acall_unary", wrap_async_call),
    _connect("acall_server_stream", wrap_async_stream_call),
    _intercept("intercept_unary_sync", wrap_intercept),
    _intercept("intercept_server_stream_sync", wrap_intercept),
    _intercept("intercept_unary", wrap_async_intercept),
    _intercept("intercept_server_stream", wrap_async_stream_intercept),
    _jupyter("code_interpreter_sync", "Sandbox"),
    _jupyter("code_interpreter_async", "AsyncSandbox"),
    # The constructors come last and are undone first, so that no holder is made while a client could miss it.
    _function("T8", _SANDBOX, "__init__", wrap_sandbox, Signature(("**opts",), complete=True)),
    _function("T8", _ASYNC_SANDBOX, "__init__", wrap_async_sandbox, Signature(("**opts",), complete=True)),
)
"""What is patched, in the order in which it is applied."""


def _relied_on(
    owner: tuple[str, str], kind: Kind, *attributes: str, since: str = "2.8.0", until: str | None = None
) -> list[Place]:
    return [Place(E2B, *owner, name, kind, since, until) for name in attributes]


RELIED_ON: tuple[Place, ...] = (
    *_relied_on(_CONFIG, Kind.INSTANCE_ATTRIBUTE, "domain", "debug", "api_url"),
    *_relied_on(_CONFIG, Kind.FUNCTION, "get_request_timeout"),
    *_relied_on(_BASE, Kind.PROPERTY, "sandbox_id", "connection_config", "envd_api_url"),
    *_relied_on(_SANDBOX, Kind.PROPERTY, "files", "commands", "pty"),
    *_relied_on(_ASYNC_SANDBOX, Kind.PROPERTY, "files", "commands", "pty"),
    *_relied_on(_CONNECT, Kind.INSTANCE_ATTRIBUTE, "_headers", until="2.34.0"),
    *_relied_on(_INTERCEPTOR, Kind.INSTANCE_ATTRIBUTE, "_headers", since="2.35.0"),
    *(Place(E2B, module, None, "get_api_client", Kind.FUNCTION, "2.8.0") for module in (SYNC_API, ASYNC_API)),
)
"""What the replacements read without patching it."""


def put_in_force(settings: str | None) -> None:
    """Give the sandbox classes the method that the SDK does not have, or take it away again."""
    methods = ((_SANDBOX, refresh_traffic_access_token), (_ASYNC_SANDBOX, refresh_traffic_access_token_async))
    for (module, name), method in methods:
        owner = getattr(importlib.import_module(module), name)
        if settings is not None:
            setattr(owner, METHOD, method)
        elif METHOD in vars(owner):
            delattr(owner, METHOD)
