"""Table of the places that ``patch_traffic_access_token`` changes or reads. ``patch_e2b`` changes other places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..seams import ANY_SIGNATURE, CODE_INTERPRETER, E2B, Kind, Place, Signature, Table, Target, relied_on
from .fetch import ASYNC_API, SYNC_API
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
    signature: Signature = ANY_SIGNATURE,
    since: str = "2.8.0",
    until: str | None = None,
) -> Target:
    return Target(seam, Place(E2B, *owner, attribute, Kind.FUNCTION, since, until, signature), replace)


def _property(seam: str, owner: tuple[str, str], attribute: str, replace: Replace) -> Target:
    return Target(seam, Place(E2B, *owner, attribute, Kind.PROPERTY), replace)


def _connect(attribute: str, replace: Replace) -> Target:
    return _function("T5", _CONNECT, attribute, replace, until="2.34.0")


def _intercept(attribute: str, replace: Replace) -> Target:
    return _function("T6", _INTERCEPTOR, attribute, replace, _RPC, since="2.35.0")


def _per_thread(owner: tuple[str, str], since: str, until: str = "2.37.1") -> Target:
    return _function("T4", owner, "_create_envd_api", wrap_create_envd_api, since=since, until=until)


def _jupyter(module: str, owner: str) -> Target:
    module = f"e2b_code_interpreter.{module}"
    return Target("T7", Place(CODE_INTERPRETER, module, owner, "_client", Kind.PROPERTY, "2.4.1"), wrap_client)


def _added(owner: tuple[str, str], method: Callable[..., Any]) -> Target:
    place = Place(E2B, *owner, "refresh_traffic_access_token", Kind.ADDED_METHOD)
    return Target("T9", place, lambda original: method)


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
    _added(_SANDBOX, refresh_traffic_access_token),
    _added(_ASYNC_SANDBOX, refresh_traffic_access_token_async),
    # The constructors are patched last and undone first, so that no holder is made while another target is missing.
    _function("T8", _SANDBOX, "__init__", wrap_sandbox, Signature(("**opts",), complete=True)),
    _function("T8", _ASYNC_SANDBOX, "__init__", wrap_async_sandbox, Signature(("**opts",), complete=True)),
)

RELIED_ON: tuple[Place, ...] = (
    *relied_on(_CONFIG, Kind.INSTANCE_ATTRIBUTE, "domain", "debug", "api_url"),
    *relied_on(_CONFIG, Kind.FUNCTION, "get_request_timeout"),
    *relied_on(_BASE, Kind.PROPERTY, "sandbox_id", "connection_config", "envd_api_url"),
    *relied_on(_SANDBOX, Kind.PROPERTY, "files", "commands", "pty"),
    *relied_on(_ASYNC_SANDBOX, Kind.PROPERTY, "files", "commands", "pty"),
    *relied_on(_CONNECT, Kind.INSTANCE_ATTRIBUTE, "_headers", until="2.34.0"),
    *relied_on(_INTERCEPTOR, Kind.INSTANCE_ATTRIBUTE, "_headers", since="2.35.0"),
    *(Place(E2B, module, None, "get_api_client", Kind.FUNCTION) for module in (SYNC_API, ASYNC_API)),
)

TRAFFIC_TOKENS = Table(TARGETS, RELIED_ON)
