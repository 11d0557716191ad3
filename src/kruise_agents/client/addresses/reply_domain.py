"""Wrappers of constructors: they choose the domain for the addresses of a sandbox object or a volume."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from ...errors import ConfigurationError
from ..seams import bind_call
from ..warnings import ServerDomainWarning, notify_of_made_sandbox
from .api_ids import prepare_sandbox
from .cross_domain import is_vendor_default, same_domain, usable_domain
from .settings import Settings, settings_of

_warned_about: set[tuple[str, str]] = set()


def wrap_sandbox_base(original: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``SandboxBase.__init__``: choose the domain of addresses, and prepare for an ID that begins with ``api``."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        call = bind_call(signature, self, *args, **kwargs)
        if call is None:
            return original(self, *args, **kwargs)
        config, answer = call.arguments.get("connection_config"), call.arguments.get("sandbox_domain")
        settings = settings_of(config)
        if settings is not None and isinstance(answer, str) and answer:
            answer = call.arguments["sandbox_domain"] = _domain_to_use(config, settings, answer, "its sandboxes")
        if settings is not None:
            prepare_sandbox(config, str(call.arguments.get("sandbox_id")), answer)
        return original(*call.args, **call.kwargs)

    return __init__


def wrap_made_volume(original: classmethod[Any, Any, Any]) -> classmethod[Any, Any, Any]:
    """Wrap ``create`` and ``connect`` of volumes: choose the domain of their contents (e2b 2.37.0 and later)."""
    function = original.__func__

    @functools.wraps(function)
    def make(cls: Any, *args: Any, **opts: Any) -> Any:
        volume = function(cls, *args, **opts)
        if inspect.iscoroutine(volume):
            return _with_own_domain_async(cls, volume, opts)
        return _with_own_domain(cls, volume, opts)

    return classmethod(make)


async def _with_own_domain_async(cls: Any, making: Coroutine[Any, Any, Any], opts: dict[str, Any]) -> Any:
    return _with_own_domain(cls, await making, opts)


def _with_own_domain(cls: Any, volume: Any, opts: dict[str, Any]) -> Any:
    resolved = cls._resolve_api_params(**opts) if hasattr(cls, "_resolve_api_params") else opts
    config = importlib.import_module("e2b.connection_config").ConnectionConfig(**resolved)
    settings = settings_of(config)
    if settings is not None and volume._domain != config.domain:
        volume._domain = _domain_to_use(config, settings, volume._domain, "the contents of its volumes")
    return volume


def _domain_to_use(config: Any, settings: Settings, answer: str, contents: str) -> str:
    # The configuration's domain counts: in the private protocol the API and the sandboxes are on one domain by
    # definition, and a server with a fixed domain does not know a port-forward or an ingress in front of the server.
    if is_vendor_default(config.domain):
        return answer
    own = usable_domain(config.domain)
    if same_domain(own, answer, settings.scheme):
        return own
    if settings.follow_server_domain:
        try:
            return usable_domain(answer)
        except ConfigurationError as error:
            _warn_once(own, answer, f"the sandbox-manager's domain cannot be followed, so {own!r} is used: {error}")
            return own
    _warn_once(
        own,
        answer,
        f"the sandbox-manager names the domain {answer!r} for {contents}, but this program uses {own!r}, "
        f"and addresses them there. To make both agree, change the server (set --domain of kruise-agents serve, or "
        f"--e2b-domain of OpenKruise's sandbox-manager, to {own!r}; or leave the option out and let proxies keep the "
        f"Host header) or the client (set E2B_DOMAIN or domain= to "
        f"{answer!r}). To use what the server says, call patch_e2b(follow_server_domain=True)",
    )
    return own


def _warn_once(own: str, answer: str, message: str) -> None:
    if (own, answer) in _warned_about:
        return
    _warned_about.add((own, answer))
    notify_of_made_sandbox(message, ServerDomainWarning)
