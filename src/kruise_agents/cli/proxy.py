"""The command ``kruise-agents proxy``."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..embedded import user_folder
from ..errors import ConfigurationError, KruiseAgentsError
from ..manager.http.admission import allow_many_descriptors
from ..protocol.domains import parse_domain
from ..proxy.port_forward import Service
from ..proxy.proxy import Proxy, ProxySettings
from ..proxy.upstream import Origin
from .exit_codes import EXIT_USAGE
from .logs import LOG_OPTIONS, announce, start_logging
from .options import click_option

DEFAULT_PORT = 7789

logger = logging.getLogger(__name__)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--upstream", metavar="URL", help="The sandbox-manager: https://your.domain, or http://host:port.")
@click.option(
    "--port-forward",
    metavar="NAMESPACE/SERVICE[:PORT]",
    help="The sandbox-manager in a cluster: the proxy keeps a 'kubectl port-forward' to it alive. The port is 7788 if "
    "none is given.",
)
@click.option(
    "--upstream-ca",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Certificate of the authority that signed the manager's certificate. Without it, public authorities count.",
)
@click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: the loopback addresses]")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="Port; 0 is any free one."
)
@click.option(
    "--domain",
    "domains",
    metavar="DOMAIN",
    multiple=True,
    help="Domain under which clients call the proxy, if it is neither localhost nor an IP address. May be given again.",
)
@click.option(
    "--traffic-tokens",
    is_flag=True,
    help="Add the traffic access token to requests for protected sandboxes. Everybody on this machine can then reach "
    "the ports of protected sandboxes that clients of the proxy use.",
)
@click.option(
    "--tls", is_flag=True, help="Speak https, with a certificate of an authority that the proxy makes at each start."
)
@click.option(
    "--connect-proxy",
    is_flag=True,
    help="Serve as HTTPS_PROXY too, for clients with fixed https addresses below the domain of --upstream or --domain. "
    "The port then speaks http and https.",
)
@click.option(
    "--connect-others", is_flag=True, help="With --connect-proxy: make tunnels to other hosts too, instead of a 403."
)
def command(**values: Any) -> None:
    """Connect any client of E2B to a manager that speaks only the private protocol.

    The proxy runs on this machine until Ctrl-C. Clients in any language reach it by routing headers, by names such as
    3000-<sandbox ID>.localhost, by private paths, and as E2B_API_URL. The proxy prints the lines that connect them.

    \b
    Examples:
      kruise-agents proxy --upstream https://your.domain
      kruise-agents proxy --upstream http://10.0.0.7:7788 --port 0
      kruise-agents proxy --port-forward sandbox-system/sandbox-manager
      kruise-agents proxy --upstream https://your.domain --connect-proxy
    """
    start_logging(values["log_level"], values["log_format"])
    warnings.showwarning = lambda message, *_, **__: logger.warning("%s", message)
    allow_many_descriptors()
    try:
        asyncio.run(_run(_settings(values), values["log_format"]))
    except KruiseAgentsError as error:
        click.echo(f"kruise-agents: {error}", err=True)
        sys.exit(EXIT_USAGE)


command.params += [click_option(declaration) for declaration in LOG_OPTIONS]


def main(arguments: list[str]) -> None:
    """Run ``kruise-agents proxy``."""
    command.main(arguments, prog_name="kruise-agents proxy")


def _settings(values: dict[str, Any]) -> ProxySettings:
    origin, service = values["upstream"], values["port_forward"]
    if bool(origin) == bool(service):
        raise ConfigurationError(
            "the proxy needs one sandbox-manager: give --upstream, such as https://your.domain, or --port-forward, "
            "such as sandbox-system/sandbox-manager"
        )
    if values["connect_others"] and not values["connect_proxy"]:
        raise ConfigurationError("--connect-others needs --connect-proxy; give both, or neither")
    return ProxySettings(
        upstream=Origin.parse(origin) if origin else Service.parse(service),
        upstream_ca=values["upstream_ca"],
        host=values["host"],
        port=values["port"],
        traffic_tokens=values["traffic_tokens"],
        tls=values["tls"],
        connect_proxy=values["connect_proxy"],
        connect_others=values["connect_others"],
        folder=_folder(values["port"]),
        domains=tuple(str(parse_domain(domain)) for domain in values["domains"]),
    )


def _folder(port: int) -> Path:
    """Return a folder of the user's for the files of one proxy."""
    return user_folder("XDG_STATE_HOME", ".local/state").with_name("kruise-agents-proxy") / (
        str(port) if port else f"pid-{os.getpid()}"
    )


async def _run(settings: ProxySettings, log_format: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Proxy(settings, tell=lambda line: announce(line, log_format)) as proxy:
        click.echo(_greeting(settings, proxy))
        await stop.wait()


def _greeting(settings: ProxySettings, proxy: Proxy) -> str:
    scheme = "https" if settings.tls else "http"
    local = f"localhost:{proxy.port}"
    domain = local if settings.connect_proxy else next(iter(settings.domains), local)
    url = f"{scheme}://{domain}"
    lines = [
        f"kruise-agents {__version__}: proxy on {url} for the sandbox-manager at {settings.upstream}",
        "",
        "Point a client of E2B at it, in any language, and set E2B_API_KEY to a key of that manager:",
        "",
        f"  export E2B_API_URL={url}",
        f"  export E2B_SANDBOX_URL={url}",
        f"  export E2B_DOMAIN={domain}",
        *(_trust(proxy) if settings.tls else []),
    ]
    if settings.connect_proxy:
        lines += ["", "Or a client with fixed https addresses:", ""]
        lines += [f"  export HTTPS_PROXY=http://{local}", *_trust(proxy)]
        lines += [f"  export E2B_DOMAIN={proxy.native_domain}"]
    lines += ["", f"A browser on this machine opens a port as {scheme}://<port>-<sandbox ID>.{local}", ""]
    return "\n".join([*lines, "Ctrl-C ends it. Sandboxes are not touched."])


def _trust(proxy: Proxy) -> list[str]:
    return [
        f"  export SSL_CERT_FILE={shlex.quote(str(proxy.bundle))}",
        f"  export NODE_EXTRA_CA_CERTS={shlex.quote(str(proxy.authority))}",
    ]
