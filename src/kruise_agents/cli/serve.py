"""The commands and their options."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..errors import ConfigurationError, KruiseAgentsError, RuntimeUnavailableError
from ..manager.manager import Manager
from ..manager.runtime import LEAST, MIB, MOST, RUNTIMES, Limits
from ..manager.settings import DEFAULT_POOL, DEFAULT_PORT, Settings
from ..manager.templates import MAX_POOL
from ..manager.traffic_tokens import DEFAULT_CLOCK_SKEW, DEFAULT_VALIDITY
from ..protocol import parse_domain
from . import EXIT_RUNTIME, EXIT_USAGE
from .greeting import Greeting
from .logs import FORMATS, LEVELS, start_logging
from .memory import share_memory_between_threads

_KEY_VARIABLE = "KRUISE_AGENTS_API_KEY"
_LIMITS = Limits()


class _Seconds(click.FloatRange):
    """Which refuses what is no number: that is neither below a minimum nor above a maximum."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number of seconds."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


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
    help="Key that clients must send; may be given more than once. Others can read options in the process list, "
    f"so prefer the environment variable {_KEY_VARIABLE} (one key).  [default: a new one, shown at start]",
)
@click.option(
    "--runtime",
    type=click.Choice(sorted(RUNTIMES)),
    default="bubblewrap",
    show_default=True,
    help="'process' isolates nothing.",
)
@click.option(
    "--cpus", type=click.IntRange(LEAST["cpus"], MOST), default=_LIMITS.cpus, show_default=True, help="Of each sandbox."
)
@click.option(
    "--memory",
    type=click.IntRange(LEAST["memory"], MOST),
    default=_LIMITS.memory // MIB,
    show_default=True,
    metavar="MIB",
    help="Of each sandbox.",
)
@click.option(
    "--processes",
    type=click.IntRange(LEAST["processes"], MOST),
    default=_LIMITS.processes,
    show_default=True,
    metavar="NUMBER",
    help="Processes and threads of each sandbox.",
)
@click.option(
    "--disk",
    type=click.IntRange(LEAST["disk"], MOST),
    default=_LIMITS.disk // MIB,
    show_default=True,
    metavar="MIB",
    help="Files of each sandbox.",
)
@click.option(
    "--internet/--no-internet",
    default=True,
    show_default=True,
    help="Whether sandboxes may reach it; takes slirp4netns or pasta.",
)
@click.option(
    "--prefork/--no-prefork",
    default=True,
    show_default=True,
    help="Whether sandboxes are forked from one process that has imported everything, or each starts anew.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False),
    help="Folder for sandboxes and certificates.  [default: $XDG_STATE_HOME/kruise-agents]",
)
@click.option(
    "--traffic-access-token-validity",
    "token_validity",
    type=click.IntRange(min=1, max=DEFAULT_VALIDITY),
    default=DEFAULT_VALIDITY,
    metavar="SECONDS",
    help="How long the traffic access tokens of protected sandboxes are valid.  [default: 100 years]",
)
@click.option(
    "--traffic-access-token-clock-skew",
    "token_clock_skew",
    type=_Seconds(0, DEFAULT_VALIDITY),
    default=DEFAULT_CLOCK_SKEW,
    show_default=True,
    metavar="SECONDS",
    help="How long they are still accepted after that.",
)
@click.option(
    "--templates",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of TOML files with templates.  [default: $XDG_CONFIG_HOME/kruise-agents/templates, if it is there]",
)
@click.option(
    "--pool",
    type=click.IntRange(0, MAX_POOL),
    default=DEFAULT_POOL,
    show_default=True,
    help="How many sandboxes of code-interpreter-v1 are kept warm, so that a create takes one.",
)
@click.option("--keep", is_flag=True, help="Leave sandboxes running at the end; the next start takes them over.")
@click.option("--v1-only", is_flag=True, help="Answer as older sandbox-managers, which lack the v2 routes. For tests.")
@click.option("--log-level", type=click.Choice(LEVELS), default="warning", show_default=True)
@click.option("--log-format", type=click.Choice(FORMATS), default="text", show_default=True)
def serve(
    host: str | None,
    port: int,
    domain: str | None,
    tls: bool,
    cert: Path | None,
    key: Path | None,
    api_keys: tuple[str, ...],
    runtime: str,
    cpus: int,
    memory: int,
    processes: int,
    disk: int,
    internet: bool,
    prefork: bool,
    state_dir: str | None,
    token_validity: int,
    token_clock_skew: float,
    templates: Path | None,
    pool: int,
    keep: bool,
    v1_only: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Run an embedded sandbox-manager until Ctrl-C, which ends its sandboxes too.

    With --keep they go on, and so they do when it is killed: the next start with the same --state-dir takes them over.

    It prints the lines that point an E2B program at it.

    \b
    Examples:
      kruise-agents serve
      kruise-agents serve --port 0 --runtime process
      kruise-agents serve --tls --port 8443 --domain sandboxes.example.com:8443
    """
    start_logging(log_level, log_format)
    share_memory_between_threads()
    try:
        if (cert is None) != (key is None):
            raise ConfigurationError(
                "--cert and --key go together: give both, or only --tls for a certificate made here"
            )
        # Read here and not by click, which would split it at blanks.
        given = api_keys or tuple(filter(None, [os.environ.get(_KEY_VARIABLE)]))
        settings = Settings(
            state_dir=_default_state_dir() if state_dir is None else _state_dir(state_dir),
            api_keys=given or (f"e2b_{secrets.token_hex(20)}",),
            host=host,
            port=port,
            domain=str(parse_domain(domain)) if domain is not None else None,
            runtime=runtime,
            limits=Limits(memory=memory * MIB, processes=processes, cpus=cpus, disk=disk * MIB),
            internet=internet,
            prefork=prefork,
            tls=tls or cert is not None,
            certificate=cert,
            private_key=key,
            templates=templates or _default_templates(),
            pool=pool,
            keep=keep,
            v1_only=v1_only,
            traffic_token_validity=token_validity,
            traffic_token_clock_skew=token_clock_skew,
        )
        asyncio.run(_serve(settings, shown_key=None if given else settings.api_keys[0]))
    except RuntimeUnavailableError as error:
        _fail(error, EXIT_RUNTIME)
    except KruiseAgentsError as error:
        _fail(error, EXIT_USAGE)


async def _serve(settings: Settings, shown_key: str | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)  # the terminal was closed, and nohup did not say to ignore that
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    async with Manager(settings, tell=lambda line: click.echo(line, err=True)) as manager:
        assert manager.runtime is not None
        assert manager.egress is not None
        greeting = Greeting(
            scheme="https" if settings.tls else "http",
            host=settings.host,
            port=manager.port,
            domain=settings.domain,
            runtime=manager.runtime.summary,
            limits=manager.runtime.enforcer.summary,
            internet=manager.egress.summary if manager.runtime.own_network else None,
            one_user_because=manager.runtime.one_user_because,
            api_key=shown_key,
            authority=manager.authority,
            found=manager.found,
            keep=settings.keep,
        )
        click.echo(greeting.text())
        await stop.wait()
        click.echo("\nleaving sandboxes as they are ..." if settings.keep else "\nending all sandboxes ...")


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "kruise-agents"


def _state_dir(text: str) -> Path:
    if not text:
        raise ConfigurationError("the state folder '' has no name; leave --state-dir out for the default one")
    return Path(text)


def _default_templates() -> Path | None:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    folder = Path(base) / "kruise-agents" / "templates"
    return folder if folder.is_dir() else None


def _fail(error: KruiseAgentsError, code: int) -> None:
    click.echo(f"kruise-agents: {error}", err=True)
    sys.exit(code)
