"""Requests to the sandbox-manager for a new token, with the connection settings of the sandbox object."""

from __future__ import annotations

import importlib
from typing import Any
from urllib.parse import urlsplit

from ...protocol.addresses import API_HOST_PREFIX, API_PREFIX, Scheme, api_url
from ..addresses.cross_domain import same_domain, usable_domain
from .holder import Answer

SYNC_API = "e2b.api.client_sync"
ASYNC_API = "e2b.api.client_async"


def refresh_base(config: Any, sandbox_url: str) -> str:
    """Return the API's base URL for token requests. This URL ends in ``/kruise/api``.

    OpenKruise's manager accepts token requests only below ``/kruise/api``. At a native URL, with the host
    ``api.<domain>``, the same request would create a sandbox, so a native URL becomes the private URL of ``<domain>``.
    Any other URL keeps its host, because the API key must not go to another host.
    """
    base = str(config.api_url).rstrip("/")
    url = urlsplit(base)
    if url.path.endswith(API_PREFIX):
        return base
    scheme: Scheme = "http" if urlsplit(sandbox_url).scheme == "http" else "https"
    if not url.path and same_domain(url.netloc.lower().removeprefix(API_HOST_PREFIX), config.domain, scheme):
        return api_url(scheme, usable_domain(config.domain))
    return f"{base}{API_PREFIX}"


def fetch(sandbox: Any) -> Answer:
    """Request a new token for a ``Sandbox`` through the SDK's API client, with the sandbox's key, headers and proxy."""
    config = _for_refresh(sandbox)
    client = importlib.import_module(SYNC_API).get_api_client(config).get_httpx_client()
    answer = client.post(_url(config, sandbox), timeout=config.get_request_timeout())
    return Answer(answer.status_code, answer.headers, answer.content)


async def fetch_async(sandbox: Any) -> Answer:
    """Request a new token for an ``AsyncSandbox``, as :func:`fetch` does for a ``Sandbox``."""
    config = _for_refresh(sandbox)
    client = importlib.import_module(ASYNC_API).get_api_client(config).get_async_httpx_client()
    answer = await client.post(_url(config, sandbox), timeout=config.get_request_timeout())
    return Answer(answer.status_code, answer.headers, answer.content)


def _url(config: Any, sandbox: Any) -> str:
    return f"{config.api_url}/sandboxes/{sandbox.sandbox_id}/traffic-access-token"


def _for_refresh(sandbox: Any) -> Any:
    config = copy_of(sandbox.connection_config)
    config.api_url = refresh_base(config, sandbox.envd_api_url)
    if hasattr(config, "retries"):  # e2b 2.49.1 and later; TokenState has a backoff of its own
        config.retries = 0
    return config


def copy_of(config: Any) -> Any:
    """Return a shallow copy of a configuration, without ``copy.copy``, which writes ``__slotnames__`` to the class."""
    copy = object.__new__(type(config))
    vars(copy).update(vars(config))
    return copy
