"""Replacements of SDK functions that make configurations, or merge the options of an object with those of a call."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import ConfigurationError
from ...protocol.addresses import api_url
from ...protocol.keys import encode_key
from .cross_domain import stays_behind, usable_domain
from .left_over import warn_of_left_over_variables
from .run_address import api_url_variable, drop_sandbox_url_of_run
from .settings import InheritedApiUrl, mark, settings_in_force, settings_of

# A key that can stand in a header. Other keys are sent in the encoded form, which every sandbox-manager accepts.
_FITS_A_HEADER = re.compile(r"[!-~]+(?: +[!-~]+)*")


def wrap_connection_config(original: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``ConnectionConfig.__init__``: store the settings, and set the private API URL if no URL was stated."""
    read_api_url = _api_url_reader(original)

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        stated = read_api_url(self, *args, **kwargs)
        settings = settings_in_force()
        if isinstance(stated, InheritedApiUrl):
            settings = stated.settings
            self.api_url = str(self.api_url)
        if settings is None:
            return
        warn_of_left_over_variables(self)
        if self.debug:
            return
        if self.api_key:
            self.api_key = _sendable(self.api_key)
        drop_sandbox_url_of_run(self)
        if not (stated or api_url_variable(self)):
            self.api_url = api_url(settings.scheme, usable_domain(self.domain))
        mark(self, settings)

    return __init__


def _sendable(key: str) -> str:
    """Return a key in a form that fits a header, without blanks and line ends around it, which servers strip."""
    stripped = key.strip()
    if not stripped:
        raise ConfigurationError(
            f"the API key {key!r} has nothing but blanks; set E2B_API_KEY or api_key= to a key of your sandbox-manager"
        )
    return stripped if _FITS_A_HEADER.fullmatch(stripped) else encode_key(stripped)


def wrap_volume_config(original: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``VolumeConnectionConfig.__init__``: set the private API URL if no URL was stated."""
    read_api_url = _api_url_reader(original)

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        settings = settings_in_force()
        if settings is None or self.debug or read_api_url(self, *args, **kwargs) or self._volume_api_url():
            return
        self.api_url = api_url(settings.scheme, usable_domain(self.domain))

    return __init__


def wrap_volume_options(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``Volume._get_volume_config``: a call with a ``domain=`` other than the volume's must bring ``token=``.

    If ``api_url=`` or ``E2B_VOLUME_API_URL`` states a URL, the call usually needs no ``token=``.
    """

    @functools.wraps(original)
    def _get_volume_config(self: Any, **opts: Any) -> Any:
        settings = settings_in_force()
        if settings is not None and opts.get("domain"):
            own = _make_own(self._domain, lambda: original(self))
            if own is not None and not own.debug:
                stays_behind(own, settings, own._volume_api_url(), opts, "a volume", "token")
        return original(self, **opts)

    return _get_volume_config


def wrap_get_api_params(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Wrap ``ConnectionConfig.get_api_params``, which returns the options of an object together with those of a call.

    If :func:`.stays_behind` returns True for a call, the call gets neither the headers nor the API URL of the object.
    Other calls without ``api_url=`` keep the patch settings that the object was made with.
    """

    @functools.wraps(original)
    def get_api_params(self: Any, **opts: Any) -> dict[str, Any]:
        params = original(self, **opts)
        settings = settings_of(self)
        if settings is not None and stays_behind(self, settings, api_url_variable(self), opts, "an object"):
            params["api_url"] = opts.get("api_url")
            params["headers"] = {**(opts.get("headers") or {}), **(opts.get("api_headers") or {})}
        elif settings != settings_in_force() and not opts.get("api_url"):
            params["api_url"] = InheritedApiUrl(params["api_url"], settings)
        return params

    return get_api_params


def wrap_call_of_object(original: Any) -> Any:
    """Wrap a method of a sandbox object: use the object's own options, which the method ignores up to e2b 2.16.0."""
    method = original.method

    @functools.wraps(method)
    def call(self: Any, *args: Any, **opts: Any) -> Any:
        config = self.connection_config
        own = {} if settings_of(config) is None else config.get_api_params(**opts)
        return method(self, *args, **{**opts, **own})

    replacement = copy.copy(original)
    replacement.method = call
    return replacement


def wrap_merge_api_params(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``merge_api_params``: keep headers and URL of a client ``E2B(...)`` out of calls to another domain."""

    @functools.wraps(original)
    def merge_api_params(bound_params: Any, params: Any) -> Any:
        return original(bound_params, {**params, **_emptied_options(params, bound_params, "a client")})

    return merge_api_params


def wrap_next_items(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``next_items`` of a paginator: keep the paginator's headers and URL out of calls to another domain."""

    @functools.wraps(original)
    def next_items(self: Any, **opts: Any) -> Any:
        return original(self, **{**opts, **_emptied_options(opts, self._opts, "a list")})

    return next_items


def wrap_async_next_items(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``next_items`` of an async paginator, as :func:`wrap_next_items` does for a sync paginator."""

    @functools.wraps(original)
    async def next_items(self: Any, **opts: Any) -> Any:
        return await original(self, **{**opts, **_emptied_options(opts, self._opts, "a list")})

    return next_items


def _emptied_options(given: Mapping[str, Any], bound: Mapping[str, Any], holder: str) -> dict[str, Any]:
    """Return options that keep an object's headers and URL out of a call to another domain.

    ``given`` are the options of the call, ``bound`` those of the object. For a call to the same domain, return ``{}``.
    For another domain, return empty headers and an empty URL where ``given`` has none, because the SDK would
    use the values in ``bound`` in place of missing ones.
    """
    if not bound or not given.get("domain"):
        return {}
    config = importlib.import_module("e2b.connection_config").ConnectionConfig
    own = _make_own(bound.get("domain"), lambda: config(**bound))
    settings = settings_of(own)
    if settings is None or not stays_behind(
        own, settings, api_url_variable(own), given, holder, bound=bool(bound.get("api_key"))
    ):
        return {}
    empty: dict[str, Any] = {"headers": {}, "api_headers": {}, "api_url": ""}
    return {name: given.get(name) or nothing for name, nothing in empty.items() if name in bound}


def _make_own(domain: str | None, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ConfigurationError:
        if domain:
            raise
        return None


def _api_url_reader(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that reads ``api_url`` from a call's arguments, whose order changed in e2b 2.29.1."""
    signature = inspect.signature(function)
    return lambda *args, **kwargs: signature.bind(*args, **kwargs).arguments.get("api_url")
