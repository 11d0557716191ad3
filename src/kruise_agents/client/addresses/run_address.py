"""The address that ``kruise-agents run`` gave to this process, and what of the environment is meant for others.

``run`` sets ``E2B_API_URL`` and ``E2B_SANDBOX_URL`` for programs without the patch. A patched process does better with
private addresses, so the patch ignores these two values. Any other value is one that the user states.
"""

from __future__ import annotations

import os
from typing import Any

from ...protocol.addresses import Scheme, api_url, origin
from ...protocol.names import RUN_ADDRESS_VARIABLE


def scheme_of_run(domain: str | None) -> Scheme | None:
    """Return the scheme of ``kruise-agents run`` if this process is below it and ``domain`` is its domain."""
    address = _address()
    return address[0] if address is not None and address[1] == domain else None


def is_of_run(url: str | None) -> bool:
    """Return whether ``kruise-agents run`` has set this URL for programs without the patch."""
    address = _address()
    return address is not None and url in (api_url(*address), origin(*address))


def api_url_variable(config: Any) -> str | None:
    """Return the API URL that the user states by ``E2B_API_URL``, or None."""
    stated: str | None = config._api_url()
    return None if is_of_run(stated) else stated


def drop_sandbox_url_of_run(config: Any) -> None:
    """Remove the sandbox URL of ``kruise-agents run`` from a configuration."""
    if is_of_run(config._sandbox_url):
        config._sandbox_url = None


def _address() -> tuple[Scheme, str] | None:
    scheme, _, domain = os.environ.get(RUN_ADDRESS_VARIABLE, "").partition("://")
    return ("https" if scheme == "https" else "http", domain) if domain else None
