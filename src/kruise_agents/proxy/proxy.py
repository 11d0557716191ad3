"""Settings in, a running proxy out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import certifi

from ..errors import AddressError, ConfigurationError, PortError
from ..manager.http.certificates import LocalAuthority, server_context
from ..manager.http.dispatch import ManagerApp
from ..manager.http.https import Https
from ..manager.http.listening import bind
from ..manager.http.server import check_uvicorn, front_server
from ..protocol.addresses import ApiTarget, Target
from ..protocol.domains import Domain, parse_domain
from ..protocol.routing import is_native_host, native_sandbox, parse
from .api import UpstreamApi
from .gateway import UpstreamGateway
from .hosts import OwnNames
from .port_forward import PortForward, Service
from .tokens import TrafficTokens
from .tunnels import TunnelProtocol, Tunnels
from .upstream import Origin, UnreachableError, Upstream, client_context

logger = logging.getLogger(__name__)

_HTTP, _HTTPS = 80, 443
_LOOPBACK = (None, "127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """The settings of one proxy.

    Attributes:
        upstream: the manager: its origin, or a service in a cluster that kubectl makes a port-forward to.
        upstream_ca: the certificate of the authority that signed the manager's certificate; None: a public one.
        host: the address to listen on; None: the loopback addresses.
        port: the port to listen on; 0: any free one.
        domains: the domains under which clients call the proxy, beside localhost and IP addresses.
        traffic_tokens: whether requests to protected sandboxes get their traffic access token from the proxy.
        tls: whether the port speaks https, with a certificate of an authority that the proxy makes.
        connect_proxy: whether clients may use the proxy as ``HTTPS_PROXY``. The port then speaks http and https.
        connect_others: whether such clients reach other hosts too.
        folder: the folder for the files of the authority.
    """

    upstream: Origin | Service
    upstream_ca: Path | None = None
    host: str | None = None
    port: int = 0
    domains: tuple[str, ...] = ()
    traffic_tokens: bool = False
    tls: bool = False
    connect_proxy: bool = False
    connect_others: bool = False
    folder: Path = Path()


class Proxy:
    """A running proxy: an asynchronous context manager that serves requests inside the block.

    Args:
        tell: called with each message for the user while the proxy runs, such as the end of a port-forward.

    Raises:
        ConfigurationError: On entering: a setting cannot work, the port is in use, or there is no port-forward.
    """

    def __init__(self, settings: ProxySettings, tell: Callable[[str], None] = logger.info) -> None:
        self._settings = settings
        self._tell = tell
        self._resources = AsyncExitStack()
        self.port = settings.port
        self.native_domain = ""  # the domain of clients that use the proxy as HTTPS_PROXY
        self.authority: Path | None = None  # the certificate of the authority that clients must trust
        self.bundle: Path | None = None  # the same, with the public authorities

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
        if settings.connect_others and settings.host not in _LOOPBACK:
            raise ConfigurationError(
                f"--connect-others makes the proxy one for every host, so it listens on loopback addresses only; "
                f"leave out --host {settings.host}, or leave out --connect-others"
            )
        listeners = bind(settings.host, settings.port, tls=settings.tls or settings.connect_proxy)
        for listener in listeners:
            resources.callback(listener.close)
        self.port = listeners[0].getsockname()[1]
        upstream = await self._upstream(resources)
        resources.callback(upstream.close)
        domains = list(settings.domains)
        if settings.connect_proxy and isinstance(settings.upstream, Origin):
            domains.append(str(settings.upstream.domain))
        self.native_domain = next(iter(domains), f"localhost:{self.port}")
        names = OwnNames(domains)
        tokens = TrafficTokens(upstream) if settings.traffic_tokens else None
        app = ManagerApp(
            UpstreamApi(upstream, names, tokens, self._about),
            UpstreamGateway(upstream, names, tokens),
            domain=None,
            page=None,
            find_target=partial(find_target, domains=names.hosts),
        )
        https = self._https(names) if settings.tls or settings.connect_proxy else None
        protocol = None
        if settings.connect_proxy:
            ports = {_HTTP, _HTTPS, self.port, *filter(None, (parse_domain(domain).port for domain in domains))}
            tunnels = Tunnels(names, ports, settings.connect_others)
            protocol = type("Protocol", (TunnelProtocol,), {"tunnels": tunnels})
        server = front_server(app, listeners, protocol, https)
        resources.push_async_callback(server.stop)
        await server.start()
        try:
            upstream.release(await upstream.connect())
        except UnreachableError as error:
            self._tell(str(error))

    async def _upstream(self, resources: AsyncExitStack) -> Upstream:
        upstream = self._settings.upstream
        if isinstance(upstream, Service):
            port_forward = await resources.enter_async_context(PortForward(upstream, self._tell))
            return Upstream(
                Origin("http", Domain("localhost", upstream.port)), None, port_forward.locate, str(upstream)
            )
        context = client_context(self._settings.upstream_ca) if upstream.scheme == "https" else None
        return Upstream(upstream, context)

    def _https(self, names: OwnNames) -> Https:
        settings = self._settings
        authority = LocalAuthority()
        made = authority.issue(settings.folder, names.hosts)
        self.authority = made.authority
        trusted = os.environ.get("SSL_CERT_FILE") or certifi.where()
        self.bundle = settings.folder / "bundle.pem"
        self.bundle.write_bytes(made.authority.read_bytes() + Path(trusted).read_bytes())
        context = server_context(made.certificate, made.private_key)
        authority.name_servers_of(context, names.include)
        advice = f"Start the program with SSL_CERT_FILE={self.bundle}"
        return Https(lambda: context, advice, only=settings.tls and not settings.connect_proxy)

    def _about(self) -> str:
        return (
            f"This is kruise-agents proxy, in front of the sandbox-manager at {self._settings.upstream}.\n"
            f"Clients of E2B use this address as E2B_API_URL and E2B_SANDBOX_URL.\n"
            f"A browser opens a port of a sandbox as http://<port>-<sandbox ID>.localhost:{self.port}\n"
        )


def find_target(
    authority: str,
    target: str,
    sandbox_id: str | None = None,
    sandbox_port: str | None = None,
    *,
    domains: Collection[str] = (),
) -> Target:
    """Parse a request as the manager does, with two differences.

    A bare path without a sandbox is a route of the API. And every native host decides alone, unless it is one of the
    proxy's own ``domains``: otherwise a page of one sandbox could be opened in the origin of another.
    """
    if target.startswith("/") and is_native_host(authority) and authority.partition(":")[0].lower() not in domains:
        return native_sandbox(authority, target)
    try:
        return parse(authority, target, sandbox_id, sandbox_port)
    except PortError:
        raise
    except AddressError:
        if sandbox_id or target.startswith("/kruise"):
            raise
        return ApiTarget(target, private=False)
