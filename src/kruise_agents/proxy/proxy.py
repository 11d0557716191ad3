"""Settings in, a running proxy out."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import AddressError, PortError
from ..manager.http.dispatch import ManagerApp
from ..manager.http.listening import bind
from ..manager.http.server import check_uvicorn, front_server
from ..protocol.addresses import ApiTarget, Target
from ..protocol.routing import parse
from .api import UpstreamApi
from .gateway import UpstreamGateway
from .hosts import OwnNames
from .tokens import TrafficTokens
from .upstream import Origin, Upstream, client_context


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """The settings of one proxy.

    Attributes:
        upstream: the manager.
        upstream_ca: the certificate of the authority that signed the manager's certificate; None: a public one.
        host: the address to listen on; None: the loopback addresses.
        port: the port to listen on; 0: any free one.
        domain: the domain that answers of the API name; None: the one that the request came under.
        traffic_tokens: whether requests to protected sandboxes get their traffic access token from the proxy.
    """

    upstream: Origin
    upstream_ca: Path | None = None
    host: str | None = None
    port: int = 0
    domain: str | None = None
    traffic_tokens: bool = False


class Proxy:
    """A running proxy: an asynchronous context manager that serves requests inside the block.

    Raises:
        ConfigurationError: On entering: a setting cannot work, or the port is in use.
    """

    def __init__(self, settings: ProxySettings) -> None:
        self._settings = settings
        self._resources = AsyncExitStack()
        self.port = settings.port

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as resources:
            await self._start(resources)
            self._resources = resources.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    async def _start(self, resources: AsyncExitStack) -> None:
        settings = self._settings
        check_uvicorn()
        context = client_context(settings.upstream_ca) if settings.upstream.scheme == "https" else None
        listeners = bind(settings.host, settings.port)
        for listener in listeners:
            resources.callback(listener.close)
        self.port = listeners[0].getsockname()[1]
        upstream = Upstream(settings.upstream, context)
        resources.callback(upstream.close)
        names = OwnNames([settings.domain] if settings.domain is not None else [])
        tokens = TrafficTokens(upstream) if settings.traffic_tokens else None
        app = ManagerApp(
            UpstreamApi(upstream, names, tokens, self._about),
            UpstreamGateway(upstream, names, tokens),
            settings.domain,
            None,
            find_target,
        )
        server = front_server(app, listeners)
        resources.push_async_callback(server.stop)
        await server.start()

    def _about(self) -> str:
        return (
            f"This is kruise-agents proxy, in front of the sandbox-manager at {self._settings.upstream}.\n"
            f"Clients of E2B use this address as E2B_API_URL and E2B_SANDBOX_URL.\n"
            f"A browser opens a port of a sandbox as http://<port>-<sandbox ID>.localhost:{self.port}\n"
        )


def find_target(authority: str, target: str, sandbox_id: str | None = None, sandbox_port: str | None = None) -> Target:
    """Parse a request as the manager does, except that a bare path without a sandbox is a route of the API."""
    try:
        return parse(authority, target, sandbox_id, sandbox_port)
    except PortError:
        raise
    except AddressError:
        if sandbox_id or target.startswith("/kruise"):
            raise
        return ApiTarget(target, private=False)
