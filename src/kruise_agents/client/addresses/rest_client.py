"""Replacements in the SDK's REST client, for the bridge to older managers and for keys of any form."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ..seams import bind_call
from .settings import settings_in_force, settings_of


def wrap_validate_api_key(original: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``e2b.api.validate_api_key``: every key passes, unless the settings in force ask for the check."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def validate_api_key(*args: Any, **kwargs: Any) -> None:
        settings = settings_in_force()
        if settings is None or settings.validate_key or bind_call(signature, *args, **kwargs) is None:
            original(*args, **kwargs)

    return validate_api_key


def wrap_api_client(original: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``ApiClient.__init__``: the requests of a configuration made under the patch go through the bridge."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        call = bind_call(signature, self, *args, **kwargs)
        if call is None or settings_of(call.arguments["config"]) is None:
            return original(self, *args, **kwargs)
        # Imported here, because the bridge needs httpx, and patching itself must be fast.
        from .v1_bridge import bridged

        config = call.arguments["config"]
        if call.arguments.get("transport") is not None:
            call.arguments["transport"] = bridged(call.arguments["transport"], config)
        # e2b 2.28.2 ... 2.37.1 have factories of transports.
        for name in ("transport_factory", "async_transport_factory"):
            if (make := call.arguments.get(name)) is not None:
                call.arguments[name] = lambda make=make: bridged(make(), config)
        return original(*call.args, **call.kwargs)

    return __init__
