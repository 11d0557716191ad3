"""Sandboxes whose ID begins with ``api``, such as ``api-prod--a`` in the namespace ``api-prod``.

OpenKruise's manager takes every path that begins with ``/kruise/api`` for a path of its API (seen in August 2026), so
the private paths of such a sandbox do not reach the sandbox. Requests with routing headers and a bare path do. Every
sandbox-manager accepts these headers, unless the domain begins with ``api.``.
"""

from __future__ import annotations

from typing import Any

from ...protocol.addresses import API_HOST_PREFIX, API_PREFIX, check_sandbox_id, origin, sandbox_prefix
from ...protocol.names import ENVD_PORT
from ..warnings import SandboxIdWarning, notify_of_made_sandbox
from .cross_domain import usable_domain
from .settings import settings_of

EXTRA_HEADERS = "_ConnectionConfig__extra_sandbox_headers"
_warned_about: set[str] = set()


def bare_url(config: Any, sandbox_id: str, sandbox_domain: str | None) -> str | None:
    """Return the URL for requests with routing headers to a sandbox, or None if its private path is to be used."""
    settings = settings_of(config)
    if settings is None or not _needs_headers(config, sandbox_id):
        return None
    domain = usable_domain(sandbox_domain or config.domain)
    return None if domain.lower().startswith(API_HOST_PREFIX) else origin(settings.scheme, domain)


def prepare_sandbox(config: Any, sandbox_id: str, sandbox_domain: str | None) -> None:
    """Give a configuration the routing headers of envd's port if the ID needs headers, and warn once for each ID.

    An ID that no address can carry raises AddressError.
    """
    check_sandbox_id(sandbox_id)
    if not _needs_headers(config, sandbox_id):
        return
    if bare_url(config, sandbox_id, sandbox_domain) is None:
        consequence = "and its domain begins with 'api.', so no request reaches the sandbox there"
    else:
        routing = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(ENVD_PORT)}
        setattr(config, EXTRA_HEADERS, {**getattr(config, EXTRA_HEADERS), **routing})
        consequence = (
            "so this program sends files, commands and, with e2b-code-interpreter 2.9.0 or later, run_code by routing "
            "headers. Addresses for others do not work there: get_host(), upload_url(), download_url(), get_mcp_url(), "
            "streams of a desktop"
        )
    if sandbox_id not in _warned_about:
        _warned_about.add(sandbox_id)
        notify_of_made_sandbox(
            f"the ID of the sandbox {sandbox_id!r} begins with 'api', and OpenKruise's sandbox-manager takes paths "
            f"below {sandbox_prefix(sandbox_id, ENVD_PORT)} for paths of its API, {consequence}. Use a namespace or a "
            f"prefix of IDs that does not begin with 'api'",
            SandboxIdWarning,
        )


def _needs_headers(config: Any, sandbox_id: str) -> bool:
    return not config._sandbox_url and sandbox_prefix(sandbox_id, ENVD_PORT).startswith(API_PREFIX)
