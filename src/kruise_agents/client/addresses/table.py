"""The table of what is patched in the SDK, and of what the replacements rely on.

To support another release, or to patch another place, change this table: checking, applying, undoing and the
tests iterate over it. "Since" and "until" are inclusive releases of the package that the owner comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

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
from .reply_domain import wrap_made_volume, wrap_sandbox_base
from .rest_client import wrap_api_client, wrap_validate_api_key
from .urls import (
    replace_get_host,
    replace_get_sandbox_url,
    wrap_file_url,
    wrap_get_mcp_url,
    wrap_jupyter_url,
    wrap_stream_url,
)

E2B = "e2b"
CODE_INTERPRETER = "e2b-code-interpreter"
DESKTOP = "e2b-desktop"


class Kind(StrEnum):
    """What stands under a name in a class, or in a module."""

    FUNCTION = "function"
    PROPERTY = "property"
    STATIC_METHOD = "static method"
    CLASS_METHOD = "class method"
    METHOD_OF_BOTH = "method of class and object"
    NUMBER = "number"
    INSTANCE_ATTRIBUTE = "attribute set in __init__"


@dataclass(frozen=True, slots=True)
class Signature:
    """What a replacement needs of the parameters of the original, the ``self`` of a method left out.

    A wrapper hands all arguments on and needs only the names that it reads. A replacement that answers by
    itself knows all parameters: one more, in a new release, would be ignored without a word.
    """

    names: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    complete: bool = False

    def shown(self, *, of_method: bool) -> str:
        """The parameters as an error message shows them."""
        optional = [f"[{name}]" for name in self.optional]
        others = [] if self.complete else ["..."]
        return f"({', '.join([*(['self'] if of_method else []), *self.names, *optional, *others])})"


ANY_SIGNATURE = Signature()


@dataclass(frozen=True, slots=True)
class Place:
    """A name in a class of an SDK package, in the releases from ``since`` to ``until``.

    Without an ``owner`` it is a global name of the module itself.
    """

    package: str
    module: str
    owner: str | None
    attribute: str
    kind: Kind
    since: str
    until: str | None = None
    signature: Signature = ANY_SIGNATURE

    def __str__(self) -> str:
        return ".".join(part for part in (self.module, self.owner, self.attribute) if part is not None)


@dataclass(frozen=True, slots=True)
class Target:
    """A place that is patched; ``replace`` makes the replacement out of the SDK's own descriptor."""

    seam: str
    place: Place
    replace: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Table:
    """What one patch changes, in the order in which it is applied, and what it reads without changing it."""

    targets: tuple[Target, ...]
    relied_on: tuple[Place, ...] = ()

    @property
    def places(self) -> tuple[Place, ...]:
        """Every place that has to be as expected."""
        return (*(target.place for target in self.targets), *self.relied_on)


_CONFIG = ("e2b.connection_config", "ConnectionConfig")
_VOLUME_CONFIG = ("e2b.volume.connection_config", "VolumeConnectionConfig")
_SANDBOX = ("e2b.sandbox.main", "SandboxBase")
_VOLUME = ("e2b.volume.volume_sync", "Volume")
_ASYNC_VOLUME = ("e2b.volume.volume_async", "AsyncVolume")
_OPTIONS = Signature(("**opts",))
_MERGED = Signature(("bound_params", "params"), complete=True)
_ADDRESS = ("sandbox_id", "sandbox_domain")


def _function(owner: tuple[str, str], attribute: str, signature: Signature, since: str, package: str = E2B) -> Place:
    return Place(package, *owner, attribute, Kind.FUNCTION, since, signature=signature)


def _list(module: str, owner: str, since: str) -> tuple[Target, Target]:
    sync = _function((module.format("sync"), owner), "next_items", _OPTIONS, since)
    twin = _function((module.format("async"), f"Async{owner}"), "next_items", _OPTIONS, since)
    return Target("S11", sync, wrap_next_items), Target("S11", twin, wrap_async_next_items)


def _calls_of_objects(owner: tuple[str, str]) -> list[Target]:
    """Those that leave the object's configuration out; of ``beta_pause`` the newer ones call ``pause``."""
    spans = {"connect": ("2.8.0", "2.16.0"), "beta_pause": ("2.8.0", "2.14.1"), "pause": ("2.15.0", "2.16.0")}
    places = [Place(E2B, *owner, name, Kind.METHOD_OF_BOTH, *span, _OPTIONS) for name, span in spans.items()]
    return [Target("S13", place, wrap_call_of_object) for place in places]


def _made_volumes(owner: tuple[str, str]) -> list[Target]:
    places = [Place(E2B, *owner, name, Kind.CLASS_METHOD, "2.37.0", None, _OPTIONS) for name in ("create", "connect")]
    return [Target("S14", place, wrap_made_volume) for place in places]


def _jupyter_url(module: str, owner: str) -> Place:
    module = f"e2b_code_interpreter.{module}"
    return Place(CODE_INTERPRETER, module, owner, "_jupyter_url", Kind.PROPERTY, "2.4.1", "2.10.3")


TARGETS: tuple[Target, ...] = (
    Target(
        "S1b",
        _function(_CONFIG, "get_api_params", Signature(("**opts",), complete=True), "2.8.0"),
        wrap_get_api_params,
    ),
    Target(
        "S2",
        _function(_CONFIG, "get_host", Signature((*_ADDRESS, "port"), complete=True), "2.8.0"),
        replace_get_host,
    ),
    Target(
        "S3a",
        _function(_CONFIG, "get_sandbox_url", Signature(_ADDRESS, ("port",), complete=True), "2.8.0"),
        replace_get_sandbox_url,
    ),
    Target(
        "S3b",
        _function(_CONFIG, "get_sandbox_direct_url", Signature(_ADDRESS, ("port",), complete=True), "2.25.1"),
        replace_get_sandbox_url,
    ),
    Target("S4", _function(_SANDBOX, "_file_url", ANY_SIGNATURE, "2.8.0"), wrap_file_url),
    Target("S5", _function(_SANDBOX, "get_mcp_url", Signature(complete=True), "2.8.0"), wrap_get_mcp_url),
    Target("S7", _jupyter_url("code_interpreter_sync", "Sandbox"), wrap_jupyter_url),
    Target("S7", _jupyter_url("code_interpreter_async", "AsyncSandbox"), wrap_jupyter_url),
    Target(
        "S8",
        _function(("e2b_desktop.main", "_VNCServer"), "get_url", ANY_SIGNATURE, "2.1.0", DESKTOP),
        wrap_stream_url,
    ),
    Target(
        "S9",
        _function(_SANDBOX, "__init__", Signature(("sandbox_domain", "connection_config")), "2.8.0"),
        wrap_sandbox_base,
    ),
    Target(
        "K1",
        Place(E2B, "e2b.api", None, "validate_api_key", Kind.FUNCTION, "2.25.0", "2.45.1", Signature(("api_key",))),
        wrap_validate_api_key,
    ),
    Target(
        "B1",
        _function(("e2b.api", "ApiClient"), "__init__", Signature(("config", "transport")), "2.8.0"),
        wrap_api_client,
    ),
    Target(
        "S10",
        Place(E2B, "e2b.connection_config", None, "merge_api_params", Kind.FUNCTION, "2.44.0", signature=_MERGED),
        wrap_merge_api_params,
    ),
    *_list("e2b.sandbox_{}.paginator", "SandboxPaginator", "2.22.0"),
    *_list("e2b.sandbox_{}.paginator", "SnapshotPaginator", "2.22.0"),
    *_list("e2b.secret.secret_{}", "SecretPaginator", "2.43.0"),
    Target("S12", _function(_VOLUME, "_get_volume_config", _OPTIONS, "2.19.0"), wrap_volume_options),
    Target("S12", _function(_ASYNC_VOLUME, "_get_volume_config", _OPTIONS, "2.19.0"), wrap_volume_options),
    *_calls_of_objects(("e2b.sandbox_sync.main", "Sandbox")),
    *_calls_of_objects(("e2b.sandbox_async.main", "AsyncSandbox")),
    *_made_volumes(_VOLUME),
    *_made_volumes(_ASYNC_VOLUME),
    # The constructors of the configurations come last and are undone first, so that nothing is marked while
    # another target is not in place.
    Target("S6", _function(_VOLUME_CONFIG, "__init__", Signature(("api_url",)), "2.19.0"), wrap_volume_config),
    Target("S1", _function(_CONFIG, "__init__", Signature(("api_url",)), "2.8.0"), wrap_connection_config),
)
"""What is patched, in the order in which it is applied."""


def _relied_on(
    owner: tuple[str, str], kind: Kind, *attributes: str, since: str = "2.8.0", until: str | None = None
) -> list[Place]:
    return [Place(E2B, *owner, attribute, kind, since, until) for attribute in attributes]


RELIED_ON: tuple[Place, ...] = (
    *_relied_on(_CONFIG, Kind.INSTANCE_ATTRIBUTE, "domain", "debug", "api_url", "_sandbox_url"),
    *_relied_on(_CONFIG, Kind.STATIC_METHOD, "_api_url"),
    *_relied_on(_CONFIG, Kind.NUMBER, "envd_port"),
    *_relied_on(_VOLUME_CONFIG, Kind.INSTANCE_ATTRIBUTE, "domain", "debug", "api_url", since="2.19.0"),
    *_relied_on(_VOLUME_CONFIG, Kind.STATIC_METHOD, "_volume_api_url", since="2.19.0"),
    *_relied_on(_VOLUME, Kind.INSTANCE_ATTRIBUTE, "_domain", since="2.19.0"),
    *_relied_on(_ASYNC_VOLUME, Kind.INSTANCE_ATTRIBUTE, "_domain", since="2.19.0"),
    *_relied_on(
        ("e2b.sandbox.sandbox_api", "PaginatorBase"), Kind.INSTANCE_ATTRIBUTE, "_opts", since="2.22.0", until="2.30.0"
    ),
    *_relied_on(("e2b.paginator", "PaginatorBase"), Kind.INSTANCE_ATTRIBUTE, "_opts", since="2.31.0"),
    *_relied_on(_SANDBOX, Kind.PROPERTY, "sandbox_id", "sandbox_domain", "connection_config", "envd_api_url"),
    *_relied_on(_SANDBOX, Kind.PROPERTY, "envd_direct_url", since="2.25.1"),
    *_relied_on(_SANDBOX, Kind.NUMBER, "mcp_port"),
)
"""What the replacements read without patching it."""

ADDRESSES = Table(TARGETS, RELIED_ON)
"""The table of ``patch_e2b``."""
