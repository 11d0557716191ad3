"""What becomes of a configuration: its API URL, its mark, and what it hands on to the next one."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable
from typing import Any

from ..errors import ConfigurationError
from ..protocol import api_url
from ..protocol.keys import encode_key
from .domain_rules import same_domain, usable_domain
from .settings import InheritedApiUrl, Settings, mark, settings_in_force, settings_of

# What can stand in a header as it is. Every sandbox-manager takes the other form of a key as well.
_TRAVELS = re.compile(r"[!-~]+(?: +[!-~]+)*")


def wrap_connection_config(original: Callable[..., None]) -> Callable[..., None]:
    """``ConnectionConfig.__init__``: mark the configuration and derive its API URL from its own domain."""
    given = _argument_reader(original, "api_url")

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        stated = given(self, *args, **kwargs)
        settings = settings_in_force()
        if isinstance(stated, InheritedApiUrl):
            settings = stated.settings
            self.api_url = str(self.api_url)
        if settings is None or self.debug:
            return
        if self.api_key and not _TRAVELS.fullmatch(self.api_key):
            self.api_key = encode_key(self.api_key)
        if not (stated or self._api_url()):
            self.api_url = api_url(settings.scheme, usable_domain(self.domain))
        mark(self, settings)

    return __init__


def wrap_volume_config(original: Callable[..., None]) -> Callable[..., None]:
    """``VolumeConnectionConfig.__init__``: volume contents live below the private API of the same domain."""
    given = _argument_reader(original, "api_url")

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        settings = settings_in_force()
        if settings is None or self.debug or given(self, *args, **kwargs) or self._volume_api_url():
            return
        self.api_url = api_url(settings.scheme, usable_domain(self.domain))

    return __init__


def wrap_get_api_params(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """``ConnectionConfig.get_api_params``: never pair one domain's URL with another domain's key."""

    @functools.wraps(original)
    def get_api_params(self: Any, **opts: Any) -> dict[str, Any]:
        params = original(self, **opts)
        if opts.get("api_url"):
            return params
        settings = settings_of(self)
        domain = opts.get("domain")
        if settings is not None and domain and _leaves_its_domain(self, settings, domain):
            if not opts.get("api_key"):
                raise ConfigurationError(
                    f"domain={domain!r} is given without api_key= on an object of the domain {self.domain!r}, "
                    f"so the key of {self.domain!r} would go to {domain!r}. Pass api_key= too, or leave domain= out"
                )
            params["api_url"] = None
            # The object's own headers may carry secrets of its domain; what the call gives goes along.
            params["headers"] = {**(opts.get("headers") or {}), **(opts.get("api_headers") or {})}
        elif settings != settings_in_force():
            params["api_url"] = InheritedApiUrl(params["api_url"], settings)
        return params

    return get_api_params


def wrap_merge_api_params(original: Callable[..., Any]) -> Callable[..., Any]:
    """``merge_api_params``: a client object, or a list, never sends its key to another domain than its own."""

    @functools.wraps(original)
    def merge_api_params(bound_params: Any, params: Any) -> Any:
        settings = settings_in_force()
        bound, given = bound_params or {}, params.get("domain")
        if settings is not None and given and bound.get("api_key") and not params.get("api_key"):
            own = bound.get("domain") or os.environ.get("E2B_DOMAIN")
            stated = bound.get("api_url") or params.get("api_url")
            # Without a domain of its own a key belongs to none, and goes where the call says.
            if own and not stated and not same_domain(given, own, settings.scheme):
                raise ConfigurationError(
                    f"domain={given!r} is given without api_key= on a client or a list of the domain {own!r}, whose "
                    f"key would go to {given!r}. Pass api_key= too, or leave domain= out"
                )
        return original(bound_params, params)

    return merge_api_params


def _leaves_its_domain(config: Any, settings: Settings, domain: str) -> bool:
    """Whether ``domain`` is another one than that of ``config``, whose API URL was derived and not stated.

    A note "derived" would be lost after one hop, since the SDK hands resolved URLs on as arguments; the
    comparison holds after any number of them.
    """
    if same_domain(domain, config.domain, settings.scheme):
        return False
    try:
        return bool(config.api_url == api_url(settings.scheme, usable_domain(config.domain)))
    except ConfigurationError:
        return False


def _argument_reader(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Read one argument of a call by its name: the position of ``api_url`` moved in e2b 2.29.1."""
    signature = inspect.signature(function)

    def read(*args: Any, **kwargs: Any) -> Any:
        return signature.bind_partial(*args, **kwargs).arguments.get(name)

    return read
