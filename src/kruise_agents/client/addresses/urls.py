"""Replacements for the SDK's sandbox addresses. Configurations made without the patch keep the SDK's addresses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

from ...protocol.addresses import sandbox_host
from ..seams import wrap_getter, wrap_result
from .api_ids import bare_url
from .cross_domain import usable_domain
from .settings import settings_of

_VNC_DESKTOP = "_VNCServer__desktop"


def replace_get_host(original: Callable[..., str]) -> Callable[..., str]:
    """Replace ``ConnectionConfig.get_host``: return ``<domain>/kruise/<sandbox id>/<port>``, without a scheme."""

    @functools.wraps(original)
    def get_host(self: Any, sandbox_id: str, sandbox_domain: str | None, port: int) -> str:
        if settings_of(self) is None:
            return original(self, sandbox_id, sandbox_domain, port)
        return sandbox_host(usable_domain(sandbox_domain or self.domain), sandbox_id, port)

    return get_host


def replace_get_sandbox_url(original: Callable[..., str]) -> Callable[..., str]:
    """Replace ``get_sandbox_url``, the URL of the SDK's own requests: ``sandbox_url=`` if stated, else a private URL.

    For a sandbox ID that begins with ``api``, return the URL of the bare domain: the requests carry routing headers.
    """
    by_path = replace_get_sandbox_direct_url(original)

    @functools.wraps(original)
    def get_sandbox_url(self: Any, sandbox_id: str, sandbox_domain: str | None, port: int | None = None) -> str:
        return bare_url(self, sandbox_id, sandbox_domain) or by_path(self, sandbox_id, sandbox_domain, port)

    return get_sandbox_url


def replace_get_sandbox_direct_url(original: Callable[..., str]) -> Callable[..., str]:
    """Replace ``get_sandbox_direct_url``, for requests by others than the SDK: ``sandbox_url=`` or private path."""

    @functools.wraps(original)
    def get_sandbox_direct_url(self: Any, sandbox_id: str, sandbox_domain: str | None, port: int | None = None) -> str:
        settings = settings_of(self)
        if settings is None:
            # The parameter port is new in e2b 2.55.1.
            native = {} if port is None else {"port": port}
            return original(self, sandbox_id, sandbox_domain, **native)
        if self._sandbox_url:
            return str(self._sandbox_url)
        # get_host is called, as in the SDK, so that a subclass can override that method.
        return (
            f"{settings.scheme}://{self.get_host(sandbox_id, sandbox_domain, self.envd_port if port is None else port)}"
        )

    return get_sandbox_direct_url


def wrap_file_url(original: Callable[..., str]) -> Callable[..., str]:
    """Wrap ``SandboxBase._file_url``: keep the path of the base URL, which the SDK's URL join drops."""

    def below_base(sandbox: Any, url: str) -> str:
        config = sandbox.connection_config
        settings = settings_of(config)
        if settings is None or config._sandbox_url:
            return url
        base = f"{settings.scheme}://{config.get_host(sandbox.sandbox_id, sandbox.sandbox_domain, config.envd_port)}"
        # The query has a signature and stays byte by byte. The signature does not cover the host (e2b 2.63.0).
        return f"{base}/{url.split('/', 3)[3]}"

    return wrap_result(original, below_base)


def wrap_get_mcp_url(original: Callable[..., str]) -> Callable[..., str]:
    """Wrap ``SandboxBase.get_mcp_url``: use the patch's scheme in place of https."""
    return wrap_result(original, lambda sandbox, url: _with_scheme_of(sandbox.connection_config, url))


def wrap_jupyter_url(original: property) -> property:
    """Wrap ``_jupyter_url`` of code interpreters from 2.9.0 to 2.10.3: use the patch's scheme in place of https.

    For a sandbox ID that begins with ``api``, return the URL of the bare domain: the requests carry routing headers.
    """
    by_path = wrap_older_jupyter_url(original)

    def reachable(sandbox: Any, url: str) -> str:
        return bare_url(sandbox.connection_config, sandbox.sandbox_id, sandbox.sandbox_domain) or url

    return wrap_getter(by_path, reachable)


def wrap_older_jupyter_url(original: property) -> property:
    """Wrap ``_jupyter_url`` of code interpreters before 2.9.0: use the patch's scheme in place of https.

    A stated sandbox URL stays unchanged. Code interpreters before 2.9.0 ignore such a URL.
    """

    def with_scheme(sandbox: Any, url: str) -> str:
        config = sandbox.connection_config
        return url if url == config._sandbox_url else _with_scheme_of(config, url)

    return wrap_getter(original, with_scheme)


def wrap_stream_url(original: Callable[..., str]) -> Callable[..., str]:
    """Wrap ``_VNCServer.get_url``: use the patch's scheme, and tell noVNC the address of its WebSocket."""

    def private(server: Any, url: str) -> str:
        config = getattr(server, _VNC_DESKTOP).connection_config
        return url if settings_of(config) is None else _with_socket_below_prefix(_with_scheme_of(config, url))

    return wrap_result(original, private)


def _with_socket_below_prefix(url: str) -> str:
    # noVNC 1.3 opens /websockify at the root of the page's host, unless the page's URL names another path. Later
    # releases resolve the path against the page, but against the root if the URL names a host.
    address = urlsplit(url)
    host = address.hostname or ""
    socket = {
        "host": f"[{host}]" if ":" in host else host,
        "port": address.port or (443 if address.scheme == "https" else 80),
        "encrypt": int(address.scheme == "https"),
        "path": f"{address.path.rpartition('/')[0].lstrip('/')}/websockify",
    }
    return f"{url}{'&' if address.query else '?'}{urlencode(socket, safe='/[]:')}"


def _with_scheme_of(config: Any, url: str) -> str:
    settings = settings_of(config)
    return url if settings is None else f"{settings.scheme}:{url.partition(':')[2]}"
