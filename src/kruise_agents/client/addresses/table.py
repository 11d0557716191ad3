"""Table of the places that ``patch_e2b`` changes or reads.

To support another release of the SDK, or to patch another place, change this table. The code that checks, applies and
undoes the patch iterates over the table, and so do the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ..seams import ANY_SIGNATURE, CODE_INTERPRETER, DESKTOP, E2B, Kind, Place, Signature, Table, Target, relied_on
from .api_ids import EXTRA_HEADERS
from .configuration import (
    wrap_async_next_items,
    wrap_call_of_object,
    wrap_connection_config,
    wrap_get_api_params,
    wrap_merge_api_params,
    wrap_next_items,
    wrap_volume_config,
    wrap_volume_options,
)
from .explained import (
    no_run_code,
    wrap_async_call,
    wrap_async_pool,
    wrap_async_request,
    wrap_call,
    wrap_exception,
    wrap_pool,
    wrap_request,
    wrap_rpc_exception,
)
from .reply_domain import wrap_made_volume, wrap_sandbox_base
from .rest_client import wrap_api_client, wrap_validate_api_key
from .urls import (
    replace_get_host,
    replace_get_sandbox_direct_url,
    replace_get_sandbox_url,
    wrap_file_url,
    wrap_get_mcp_url,
    wrap_jupyter_url,
    wrap_older_jupyter_url,
    wrap_stream_url,
)

_CONFIG = ("e2b.connection_config", "ConnectionConfig")
_VOLUME_CONFIG = ("e2b.volume.connection_config", "VolumeConnectionConfig")
_SANDBOX = ("e2b.sandbox.main", "SandboxBase")
_VOLUME = ("e2b.volume.volume_sync", "Volume")
_ASYNC_VOLUME = ("e2b.volume.volume_async", "AsyncVolume")
_OPTIONS = Signature(("**opts",))
_MERGED = Signature(("bound_params", "params"), complete=True)
_ADDRESS = ("sandbox_id", "sandbox_domain")


def _function(
    owner: tuple[str, str], attribute: str, signature: Signature, since: str = "2.8.0", package: str = E2B
) -> Place:
    return Place(package, *owner, attribute, Kind.FUNCTION, since, signature=signature)


def _list(module: str, owner: str, since: str) -> tuple[Target, Target]:
    sync = _function((module.format("sync"), owner), "next_items", _OPTIONS, since)
    asynchronous = _function((module.format("async"), f"Async{owner}"), "next_items", _OPTIONS, since)
    return Target("S11", sync, wrap_next_items), Target("S11", asynchronous, wrap_async_next_items)


def _calls_of_objects(owner: tuple[str, str]) -> list[Target]:
    """Return targets for the methods that, in e2b up to 2.16.0, ignore the options of their sandbox object."""
    # Since e2b 2.15.0, ``beta_pause`` calls ``pause``, so the target for ``pause`` is enough.
    spans = {"connect": ("2.8.0", "2.16.0"), "beta_pause": ("2.8.0", "2.14.1"), "pause": ("2.15.0", "2.16.0")}
    places = [Place(E2B, *owner, name, Kind.METHOD_OF_BOTH, *span, _OPTIONS) for name, span in spans.items()]
    return [Target("S13", place, wrap_call_of_object) for place in places]


def _made_volumes(owner: tuple[str, str]) -> list[Target]:
    places = [Place(E2B, *owner, name, Kind.CLASS_METHOD, "2.37.0", None, _OPTIONS) for name in ("create", "connect")]
    return [Target("S14", place, wrap_made_volume) for place in places]


def _jupyter_urls(module: str, owner: str) -> tuple[Target, Target]:
    place = partial(Place, CODE_INTERPRETER, f"e2b_code_interpreter.{module}", owner, "_jupyter_url", Kind.PROPERTY)
    older, newer = place("2.4.1", "2.8.1"), place("2.9.0", "2.10.3")
    return Target("S7", older, wrap_older_jupyter_url), Target("S7", newer, wrap_jupyter_url)


def _method(replace: Callable[..., Any], owner: tuple[str, str], name: str, *options: bool, **span: str) -> Target:
    """Return a target for a method that the class has itself in some releases, and inherits in others."""
    place = Place(E2B, *owner, name, Kind.OWN_OR_INHERITED_METHOD, **span)  # type: ignore[arg-type]
    return Target("W1", place, replace((*owner, name), *options))


def _explained_transports() -> Iterator[Target]:
    """Give the targets for the transports of each generation, sync and async: of httpx, and of pyqwest."""
    old, old_async = (
        ("e2b.api.client_sync", "TransportWithLogger"),
        ("e2b.api.client_async", "AsyncTransportWithLogger"),
    )
    httpx = {"until": "2.37.1"}
    yield _method(wrap_request, old, "handle_request", False, **httpx)
    yield _method(wrap_async_request, old_async, "handle_async_request", False, **httpx)
    # Of the pools, which the RPC clients use, up to e2b 2.34.0.
    yield Target("W3", Place(E2B, *old, "pool", Kind.PROPERTY, until="2.34.0"), wrap_pool)
    yield Target("W3", Place(E2B, *old_async, "pool", Kind.PROPERTY, until="2.34.0"), wrap_async_pool)
    for package, span in (("api", {"since": "2.38.0"}), ("envd", {"since": "2.35.0", **httpx})):
        name = "ConnectionRetryTransport"
        yield _method(wrap_request, (f"e2b.{package}.client_sync", name), "execute_sync", True, **span)
        yield _method(wrap_async_request, (f"e2b.{package}.client_async", name), "execute", True, **span)
    # The transports are made here, which fails if SSL_CERT_FILE names no certificates.
    for module in ("e2b.api.client_sync", "e2b.api.client_async"):
        yield Target("W2", Place(E2B, module, None, "get_transport", Kind.FUNCTION), wrap_call)


def _explained_code(module: str, owner: str, wrap: Callable[[Any], Any]) -> Target:
    code = _function((f"e2b_code_interpreter.{module}", owner), "run_code", ANY_SIGNATURE, "2.4.1", CODE_INTERPRETER)
    return Target("W4", code, wrap)


_API_URL = Signature(("api_url",))
_API_URL = Signature(("api_url",))
_PORTS = Signature(_ADDRESS, ("port",), complete=True)
_KEY_CHECK = Place(E2B, "e2b.api", None, "validate_api_key", Kind.FUNCTION, "2.25.0", "2.45.1", Signature(("api_key",)))
_CLIENT_OBJECTS = Place(
    E2B, "e2b.connection_config", None, "merge_api_params", Kind.FUNCTION, "2.44.0", signature=_MERGED
)
_STREAM = _function(("e2b_desktop.main", "_VNCServer"), "get_url", ANY_SIGNATURE, "2.1.0", DESKTOP)

TARGETS: tuple[Target, ...] = (
    Target("S1b", _function(_CONFIG, "get_api_params", Signature(("**opts",), complete=True)), wrap_get_api_params),
    Target("S2", _function(_CONFIG, "get_host", Signature((*_ADDRESS, "port"), complete=True)), replace_get_host),
    Target("S3a", _function(_CONFIG, "get_sandbox_url", _PORTS), replace_get_sandbox_url),
    Target("S3b", _function(_CONFIG, "get_sandbox_direct_url", _PORTS, "2.25.1"), replace_get_sandbox_direct_url),
    Target("S4", _function(_SANDBOX, "_file_url", ANY_SIGNATURE), wrap_file_url),
    Target("S5", _function(_SANDBOX, "get_mcp_url", Signature(complete=True)), wrap_get_mcp_url),
    *_jupyter_urls("code_interpreter_sync", "Sandbox"),
    *_jupyter_urls("code_interpreter_async", "AsyncSandbox"),
    Target("S8", _STREAM, wrap_stream_url),
    Target(
        "S9",
        _function(_SANDBOX, "__init__", Signature(("sandbox_id", "sandbox_domain", "connection_config"))),
        wrap_sandbox_base,
    ),
    Target("K1", _KEY_CHECK, wrap_validate_api_key),
    Target("B1", _function(("e2b.api", "ApiClient"), "__init__", Signature(("config", "transport"))), wrap_api_client),
    Target("S10", _CLIENT_OBJECTS, wrap_merge_api_params),
    *_list("e2b.sandbox_{}.paginator", "SandboxPaginator", "2.22.0"),
    *_list("e2b.sandbox_{}.paginator", "SnapshotPaginator", "2.22.0"),
    *_list("e2b.secret.secret_{}", "SecretPaginator", "2.43.0"),
    Target("S12", _function(_VOLUME, "_get_volume_config", _OPTIONS, "2.19.0"), wrap_volume_options),
    Target("S12", _function(_ASYNC_VOLUME, "_get_volume_config", _OPTIONS, "2.19.0"), wrap_volume_options),
    *_calls_of_objects(("e2b.sandbox_sync.main", "Sandbox")),
    *_calls_of_objects(("e2b.sandbox_async.main", "AsyncSandbox")),
    *_made_volumes(_VOLUME),
    *_made_volumes(_ASYNC_VOLUME),
    *_explained_transports(),
    _explained_code("code_interpreter_sync", "Sandbox", wrap_call),
    _explained_code("code_interpreter_async", "AsyncSandbox", wrap_async_call),
    *(
        _method(wrap_exception, ("e2b.exceptions", name), "__init__")
        for name in ("SandboxException", "AuthenticationException")
    ),
    Target("W5", Place(E2B, "e2b.envd.rpc", None, "handle_rpc_exception", Kind.FUNCTION, "2.29.2"), wrap_rpc_exception),
    Target("W6", Place(E2B, *_SANDBOX, "run_code", Kind.ANYTHING), no_run_code),
    # The constructors of configurations are patched last and undone first, so that no configuration gets settings while
    # another target is missing.
    Target("S6", _function(_VOLUME_CONFIG, "__init__", _API_URL, "2.19.0"), wrap_volume_config),
    Target("S1", _function(_CONFIG, "__init__", _API_URL), wrap_connection_config),
)

_PAGINATOR = ("e2b.sandbox.sandbox_api", "PaginatorBase")
RELIED_ON: tuple[Place, ...] = (
    *relied_on(_CONFIG, Kind.INSTANCE_ATTRIBUTE, "domain", "debug", "api_url", "_sandbox_url", EXTRA_HEADERS),
    *relied_on(_CONFIG, Kind.STATIC_METHOD, "_api_url"),
    *relied_on(_CONFIG, Kind.NUMBER, "envd_port"),
    *relied_on(_VOLUME_CONFIG, Kind.INSTANCE_ATTRIBUTE, "domain", "debug", "api_url", since="2.19.0"),
    *relied_on(_VOLUME_CONFIG, Kind.STATIC_METHOD, "_volume_api_url", since="2.19.0"),
    *relied_on(_VOLUME, Kind.INSTANCE_ATTRIBUTE, "_domain", since="2.19.0"),
    *relied_on(_ASYNC_VOLUME, Kind.INSTANCE_ATTRIBUTE, "_domain", since="2.19.0"),
    *relied_on(_PAGINATOR, Kind.INSTANCE_ATTRIBUTE, "_opts", since="2.22.0", until="2.30.0"),
    *relied_on(("e2b.paginator", "PaginatorBase"), Kind.INSTANCE_ATTRIBUTE, "_opts", since="2.31.0"),
    *relied_on(_SANDBOX, Kind.PROPERTY, "sandbox_id", "sandbox_domain", "connection_config"),
    *relied_on(_SANDBOX, Kind.NUMBER, "mcp_port"),
)

ADDRESSES = Table(TARGETS, RELIED_ON)
