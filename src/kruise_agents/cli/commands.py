"""The commands and their options."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
from pathlib import Path

import click

from .. import __version__
from ..errors import ConfigurationError, KruiseAgentsError, RuntimeUnavailableError
from ..manager.certificates import LocalCertificate, make_certificate
from ..manager.manager import Manager
from ..manager.runtime import RUNTIMES
from ..manager.settings import DEFAULT_PORT, Settings
from ..protocol import Domain, parse_domain
from . import EXIT_RUNTIME, EXIT_USAGE
from .greeting import Greeting

_LEVELS = ("debug", "info", "warning", "error")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kruise-agents")
def cli() -> None:
    """E2B programs on your own cluster over one plain domain, and on a laptop without one."""


@cli.command()
@click.option("--host", help="Address to listen on.  [default: both loopback addresses]")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any free port."
)
@click.option("--domain", help="What clients call this manager: host or host:port.  [default: as each client does]")
@click.option("--tls", is_flag=True, help="Serve https; without --cert with a certificate made on the spot.")
@click.option("--cert", type=click.Path(path_type=Path), help="PEM file: certificate and chain. Implies --tls.")
@click.option("--key", type=click.Path(path_type=Path), help="PEM file: the certificate's private key.")
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    envvar="KRUISE_AGENTS_API_KEY",
    show_envvar=True,
    help="Key that clients must send; may be given more than once. Others can read options in the process list, "
    "so prefer the environment variable.  [default: a new one, shown at start]",
)
@click.option(
    "--runtime",
    type=click.Choice(sorted(RUNTIMES)),
    default="bubblewrap",
    show_default=True,
    help="'process' isolates nothing.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for sandboxes and certificates.  [default: $XDG_STATE_HOME/kruise-agents]",
)
@click.option("--log-level", type=click.Choice(_LEVELS), default="warning", show_default=True)
def serve(
    host: str | None,
    port: int,
    domain: str | None,
    tls: bool,
    cert: Path | None,
    key: Path | None,
    api_keys: tuple[str, ...],
    runtime: str,
    state_dir: Path | None,
    log_level: str,
) -> None:
    """Run an embedded sandbox-manager until Ctrl-C, which ends its sandboxes too.

    It prints the lines that point an E2B program at it.

    \b
    Examples:
      kruise-agents serve
      kruise-agents serve --port 0 --runtime process
      kruise-agents serve --tls --domain sandboxes.example.com --port 8443
    """
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    # Its "error" logger is also what it says every ordinary thing on.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, getattr(logging, log_level.upper())))
    state = state_dir or _default_state_dir()
    try:
        if (cert is None) != (key is None):
            raise ConfigurationError(
                "--cert and --key go together: give both, or only --tls for a certificate made here"
            )
        named = parse_domain(domain) if domain else None
        own = None
        if tls and cert is None:
            own = make_certificate(state / "tls", named or Domain("localhost"))
            cert, key = own.certificate, own.private_key
        settings = Settings(
            state_dir=state,
            api_keys=api_keys or (f"e2b_{secrets.token_hex(20)}",),
            host=host,
            port=port,
            domain=str(named) if named else None,
            runtime=runtime,
            certificate=cert,
            private_key=key,
        )
        asyncio.run(_serve(settings, own, shown_key=None if api_keys else settings.api_keys[0]))
    except RuntimeUnavailableError as error:
        _fail(error, EXIT_RUNTIME)
    except KruiseAgentsError as error:
        _fail(error, EXIT_USAGE)


async def _serve(settings: Settings, own: LocalCertificate | None, shown_key: str | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Manager(settings) as manager:
        assert manager.runtime is not None
        greeting = Greeting(
            scheme="https" if settings.certificate else "http",
            host=settings.host,
            port=manager.port,
            domain=settings.domain,
            runtime=manager.runtime.summary,
            api_key=shown_key,
            authority=own.authority if own else None,
        )
        click.echo(greeting.text())
        await stop.wait()
        click.echo("\nending all sandboxes ...")


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "kruise-agents"


def _fail(error: KruiseAgentsError, code: int) -> None:
    click.echo(f"kruise-agents: {error}", err=True)
    sys.exit(code)
