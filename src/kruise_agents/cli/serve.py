"""The command ``kruise-agents serve``."""

from __future__ import annotations

import asyncio
import ctypes
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
from ..manager.settings import Settings, declarations, from_values
from ..protocol.domains import parse_domain
from . import EXIT_RUNTIME, EXIT_USAGE
from .greeting import Greeting
from .logs import LOG_OPTIONS, start_logging
from .options import click_option, environment_variables

OPTIONS = (*declarations(), *LOG_OPTIONS)
_KEY_VARIABLE = next(each.option.variable for each in OPTIONS if each.name == "api_keys")
_M_ARENA_MAX = -8
"""``malloc.h`` of glibc."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kruise-agents")
def cli() -> None:
    """E2B programs on your own cluster over one plain domain, and on a laptop without one."""


@cli.command(params=[click_option(declaration) for declaration in OPTIONS])
def serve(**values: Any) -> None:
    """Run an embedded sandbox-manager until Ctrl-C, which ends its sandboxes too.

    With --keep they go on, and so they do when it is killed: the next start with the same --state-dir takes them over.

    It prints the lines that point an E2B program at it.

    Every option can be set by an environment variable too, such as KRUISE_AGENTS_STATE_DIR for --state-dir and
    KRUISE_AGENTS_KEEP=true for --keep. The option on the command line counts first.

    \b
    Examples:
      kruise-agents serve
      kruise-agents serve --port 0 --runtime process
      kruise-agents serve --tls --port 8443 --domain sandboxes.example.com:8443
    """
    start_logging(values["log_level"], values["log_format"])
    share_memory_between_threads()
    try:
        settings, shown_key = _settings(values)
        asyncio.run(_serve(settings, shown_key))
    except RuntimeUnavailableError as error:
        _fail(error, EXIT_RUNTIME)
    except KruiseAgentsError as error:
        _fail(error, EXIT_USAGE)


def _settings(values: dict[str, Any]) -> tuple[Settings, str | None]:
    """Return the settings, and the API key to show where a new one was made."""
    if (values["certificate"] is None) != (values["private_key"] is None):
        raise ConfigurationError("--cert and --key go together: give both, or only --tls for a certificate made here")
    if values["state_dir"] == "":
        raise ConfigurationError("the state folder '' has no name; leave --state-dir out for the default one")
    chosen = from_values(values)
    keys = values["api_keys"] or tuple(filter(None, [os.environ.get(_KEY_VARIABLE)]))
    new_key = None if keys else f"e2b_{secrets.token_hex(20)}"
    chosen["api_keys"] = keys or (new_key,)
    chosen.setdefault("state_dir", _user_folder("XDG_STATE_HOME", ".local/state"))
    templates = _user_folder("XDG_CONFIG_HOME", ".config") / "templates"
    chosen.setdefault("templates", templates if templates.is_dir() else None)
    if "domain" in chosen:
        chosen["domain"] = str(parse_domain(chosen["domain"]))
    chosen["tls"] |= "certificate" in chosen
    return Settings(**chosen), new_key


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


def share_memory_between_threads() -> None:
    """Let all threads of this process allocate from one arena; call this before there are any.

    glibc gives each thread an arena of its own and keeps what is freed there. Now and then Python moves its table of
    interned names, about a megabyte, in whichever thread runs; in the end every thread would hold one or two megabytes
    of nothing. Threads allocate while they hold the interpreter's lock, so that one arena makes none of them wait.
    Other C libraries have neither such arenas nor the setting. glibc's own variable takes precedence.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)


def _user_folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / default) / "kruise-agents"


def _fail(error: KruiseAgentsError, code: int) -> None:
    click.echo(f"kruise-agents: {error}", err=True)
    if variables := environment_variables(click.get_current_context()):
        click.echo(f"Set by environment variables: {', '.join(variables)}", err=True)
    sys.exit(code)
