"""Asking the sandbox-manager for a new token, with the connection settings of the sandbox object."""

from __future__ import annotations

import importlib
from typing import Any
from urllib.parse import urlsplit

from ..protocol import Scheme, api_url
from ..protocol.addresses import API_PREFIX
from .domain_rules import usable_domain
from .traffic_holder import Answer

SYNC_API = "e2b.api.client_sync"
ASYNC_API = "e2b.api.client_async"


def refresh_url(config: Any, sandbox_url: str, sandbox_id: str) -> str:
    """Where a sandbox's new token is issued; only ever below ``/kruise/api``.

    With a native API URL it is built from the domain, with the scheme of the sandbox: natively OpenKruise's manager
    reads this route as "create a sandbox".

    Parameters:
        config: the sandbox's configuration.
        sandbox_url: any URL of the sandbox.

    Raises:
        ConfigurationError: the API URL is native and there is no domain to build another from.
    """
    base = str(config.api_url).rstrip("/")
    if not urlsplit(base).path.endswith(API_PREFIX):
        scheme: Scheme = "http" if urlsplit(sandbox_url).scheme == "http" else "https"
        base = api_url(scheme, usable_domain(config.domain))
    return f"{base}/sandboxes/{sandbox_id}/traffic-access-token"


def fetch(sandbox: Any) -> Answer:
    """One refresh request of a ``Sandbox``, through the SDK's own API client: its key, headers, proxy, trust."""
    config = _without_retries(sandbox.connection_config)
    client = importlib.import_module(SYNC_API).get_api_client(config).get_httpx_client()
    answer = client.post(
        refresh_url(config, sandbox.envd_api_url, sandbox.sandbox_id), timeout=config.get_request_timeout()
    )
    return Answer(answer.status_code, answer.headers, answer.content)


async def fetch_async(sandbox: Any) -> Answer:
    """One refresh request of an ``AsyncSandbox``."""
    config = _without_retries(sandbox.connection_config)
    client = importlib.import_module(ASYNC_API).get_api_client(config).get_async_httpx_client()
    answer = await client.post(
        refresh_url(config, sandbox.envd_api_url, sandbox.sandbox_id), timeout=config.get_request_timeout()
    )
    return Answer(answer.status_code, answer.headers, answer.content)


def _without_retries(config: Any) -> Any:
    """The same configuration without the retries of e2b 2.49.1 and later: the schedule has its own backoff."""
    if not hasattr(config, "retries"):
        return config
    single = twin_of(config)
    single.retries = 0
    return single


def twin_of(config: Any) -> Any:
    """Another configuration with the same values. ``copy.copy`` would leave a mark on the SDK's class."""
    twin = object.__new__(type(config))
    vars(twin).update(vars(config))
    return twin
