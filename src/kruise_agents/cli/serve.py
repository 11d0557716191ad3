"""The command ``kruise-agents serve``."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import click

from .. import __version__
from ..embedded import CONNECTION_FILE, Connection, default_state_dir, user_folder
from ..errors import ConfigurationError, KruiseAgentsError, RuntimeUnavailableError
from ..manager.http.admission import allow_many_descriptors
from ..manager.http.listening import own_address
from ..manager.manager import Manager
from ..manager.sandboxes.recovery import Found
from ..manager.settings import Declaration, Option, Settings, declarations, from_values
from ..protocol.addresses import Scheme, api_url
from ..protocol.domains import parse_domain
from .exit_codes import EXIT_RUNTIME, EXIT_USAGE
from .logs import LOG_OPTIONS, announce, start_logging
from .options import click_option, environment_variables, unknown_variables

_START_OPTIONS = (
    Declaration(
        "temporary",
        Option("--temporary", "Use a new state folder, and remove it at the end. Excludes --state-dir and --keep."),
        bool,
        False,
    ),
    Declaration(
        "end_with",
        Option(
            "--end-with",
            "Also end when the process with this ID has ended, such as the script that started the manager.",
            least=1,
            most=2**31 - 1,
            unit="PID",
        ),
        int,
        None,
    ),
    Declaration(
        "ready_file",
        Option(
            "--ready-file",
            "File that the manager writes when it is ready and removes at its end: how to reach the manager, with the "
            "key, as JSON. The state folder always has this file as manager.json.",
        ),
        Path,
        None,
    ),
    Declaration(
        "json",
        Option("--json", "Print one line when the manager is ready, with the JSON of --ready-file, and nothing else."),
        bool,
        False,
    ),
)
OPTIONS = (*declarations(), *_START_OPTIONS, *LOG_OPTIONS)
_KEY_VARIABLE = next(each.option.variable for each in OPTIONS if each.name == "api_keys")
_DEFAULT_PORTS = {"https": 443, "http": 80}
_LOOPBACK = (None, "127.0.0.1", "::1", "localhost")
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to
"""The addresses that stand for all of this machine's, each with the one that programs on this machine use."""
_M_ARENA_MAX = -8
"""The number of ``M_ARENA_MAX`` in ``malloc.h`` of glibc."""

logger = logging.getLogger(__name__)


@click.command(
    params=[click_option(declaration) for declaration in OPTIONS],
    context_settings={"help_option_names": ["-h", "--help"]},
)
def command(**values: Any) -> None:
    """Run an embedded sandbox-manager on this machine until Ctrl-C.

    The manager prints the lines that connect an E2B program to it.

    Ctrl-C ends the manager and its sandboxes. With --keep, or when the manager is killed, sandboxes keep running, and
    the next start with the same --state-dir takes them over.

    Each option can also be set by an environment variable: KRUISE_AGENTS_STATE_DIR sets --state-dir, and
    KRUISE_AGENTS_KEEP=true sets --keep. An option on the command line overrides its variable.

    \b
    Examples:
      kruise-agents serve
      kruise-agents serve --port 0 --no-internet
      kruise-agents serve --port 0 --temporary --end-with $$ --ready-file ready.json &
      KRUISE_AGENTS_API_KEY=my-key kruise-agents serve --log-level info
      kruise-agents serve --tls --port 8443 --domain sandboxes.example.com:8443
    """
    start_logging(values["log_level"], values["log_format"])
    if ignored := unknown_variables(click.get_current_context()):
        logger.warning("no option has these environment variables, which are ignored: %s", ", ".join(ignored))
    share_memory_between_threads()
    allow_many_descriptors()
    try:
        asyncio.run(_serve(_settings(values), _Start.of(values)))
    except RuntimeUnavailableError as error:
        _fail(error, EXIT_RUNTIME)
    except KruiseAgentsError as error:
        _fail(error, EXIT_USAGE)


def main(arguments: list[str]) -> None:
    """Run ``kruise-agents serve``."""
    command.main(arguments, prog_name="kruise-agents serve")


def _settings(values: dict[str, Any]) -> Settings:
    if (values["certificate"] is None) != (values["private_key"] is None):
        raise ConfigurationError("--cert and --key go together: give both, or only --tls for a certificate made here")
    if values["state_dir"] == "":
        raise ConfigurationError("the state folder '' has no name; leave --state-dir out for the default one")
    if values["temporary"] and (values["state_dir"] is not None or values["keep"]):
        raise ConfigurationError("--temporary does not go together with --state-dir or --keep; leave one of them out")
    chosen = from_values(values)
    keys = values["api_keys"] or tuple(filter(None, [os.environ.get(_KEY_VARIABLE)]))
    chosen["api_keys"] = keys
    chosen.setdefault("state_dir", default_state_dir())
    templates = user_folder("XDG_CONFIG_HOME", ".config") / "templates"
    chosen.setdefault("templates", templates if templates.is_dir() else None)
    if "domain" in chosen:
        chosen["domain"] = str(parse_domain(chosen["domain"]))
    chosen["tls"] |= "certificate" in chosen
    return Settings(**chosen)


@dataclass(frozen=True, slots=True)
class _Start:
    """The options that are no settings of the manager."""

    temporary: bool
    end_with: int | None
    ready_file: Path | None
    json: bool
    log_format: str

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        ready_file = Path(values["ready_file"]).absolute() if values["ready_file"] is not None else None
        return cls(values["temporary"], values["end_with"], ready_file, values["json"], values["log_format"])


async def _serve(settings: Settings, start: _Start) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)  # the terminal was closed; nohup ignores the signal
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    with ExitStack() as resources:
        if start.end_with is not None:
            process = _process(start.end_with)
            resources.callback(os.close, process)
            loop.add_reader(process, stop.set)
            resources.callback(loop.remove_reader, process)
        if start.ready_file is not None:
            _clear(start.ready_file)
        if not start.json:
            click.echo(f"kruise-agents {__version__}: starting a sandbox-manager ...")
        if start.temporary:
            settings = replace(settings, state_dir=Path(tempfile.mkdtemp(prefix="kruise-agents-")))
        manager = Manager(settings, tell=lambda line: announce(line, start.log_format))
        if start.temporary:
            resources.callback(_remove, manager, settings.state_dir)
        async with manager:
            connection = _connection(settings, manager)
            resources.enter_context(connection.published(connection.state_dir / CONNECTION_FILE))
            if start.ready_file is not None:
                resources.enter_context(connection.published(start.ready_file))
            click.echo(connection.to_json() if start.json else _greeting(settings, manager, connection))
            await stop.wait()
            if not start.json:
                click.echo("\nleaving sandboxes as they are ..." if settings.keep else "\nending all sandboxes ...")


def _process(pid: int) -> int:
    """Return a descriptor that is readable when a process has ended."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise ConfigurationError(f"--end-with {pid}: {error.strerror}; give the ID of a running process") from error


def _clear(ready_file: Path) -> None:
    """Remove the file that a manager which was killed has left. Raise a ConfigurationError if it is another file."""
    try:
        if ready_file.stat().st_size > 0:
            Connection.read(ready_file)
        ready_file.unlink()
    except FileNotFoundError:
        if not ready_file.parent.is_dir():
            raise ConfigurationError(f"--ready-file {ready_file}: there is no folder {ready_file.parent}") from None
    except (OSError, ConfigurationError) as error:
        raise ConfigurationError(
            f"--ready-file {ready_file} is there and no connection file, so it is not replaced; name another file"
        ) from error


def _remove(manager: Manager, folder: Path) -> None:
    if manager.runtime is not None:
        manager.runtime.remove(folder)
    else:
        folder.rmdir()  # nothing has started


def _connection(settings: Settings, manager: Manager) -> Connection:
    scheme: Scheme = "https" if settings.tls else "http"
    address = _authority(scheme, _name_here(settings.host, manager.addresses), manager.port)
    return Connection(
        version=__version__,
        pid=os.getpid(),
        url=f"{scheme}://{address}",
        domain=settings.domain or address,
        scheme=scheme,
        api_url=api_url(scheme, address),
        api_key=manager.api_keys[0],
        ca_file=manager.authority,
        state_dir=settings.state_dir.absolute(),
    )


def _greeting(settings: Settings, manager: Manager, connection: Connection) -> str:
    found = manager.found
    lines = [f"kruise-agents {__version__}: sandbox-manager on {connection.url}", *_isolation(manager)]
    if settings.like_openkruise:
        lines.append("answering as OpenKruise's manager does, its misreadings included")
    if found != Found():
        lines.append(f"sandboxes taken over from the last run: {found.running} running, {found.paused} paused")
    if settings.host not in _LOOPBACK:
        lines.append(f"listening on {settings.host}: everybody who can reach it and has the key can run code here")
    lines += ["", "Point an E2B program at it:", ""]
    for name, value in connection.environment().items():
        if name == "E2B_API_KEY" and settings.api_keys:
            lines.append("  # and set E2B_API_KEY to the key that you gave")
        else:
            remark = "   # trust this manager only" if name == "SSL_CERT_FILE" else ""
            lines.append(f"  export {name}={shlex.quote(value)}{remark}")
    lines += ["", "  from kruise_agents.patch_e2b import patch_e2b"]
    lines += [f"  patch_e2b({'' if connection.https else 'False'})", ""]
    if settings.host in _ANY_ADDRESS and settings.domain is None and (address := own_address(str(settings.host))):
        also = f" and SSL_CERT_FILE={connection.ca_file.name}, a copy of that file" if connection.ca_file else ""
        lines += [f"On other machines: E2B_DOMAIN={_authority(connection.scheme, address, manager.port)}{also}", ""]
    if not settings.tls and settings.host in (*_LOOPBACK, *_ANY_ADDRESS):
        port = "" if manager.port == _DEFAULT_PORTS["http"] else f":{manager.port}"
        lines.append(f"A browser on this machine opens a port as http://<port>-<sandbox ID>.localhost{port}")
        lines.append("")
    lines.append(
        "Ctrl-C ends it; sandboxes stay for the next start." if settings.keep else "Ctrl-C ends it and all sandboxes."
    )
    return "\n".join(lines)


def _isolation(manager: Manager) -> list[str]:
    assert manager.runtime is not None
    assert manager.egress is not None
    runtime = manager.runtime
    lines = [runtime.summary, runtime.enforcer.summary, runtime.disk.summary]
    if runtime.own_network:
        lines.append(manager.egress.summary)
    if runtime.one_user_because:
        lines.append(f"sandboxes have one user, who is also their root: {runtime.one_user_because}")
    return lines


def _authority(scheme: str, host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port == _DEFAULT_PORTS[scheme] else f"{name}:{port}"


def _name_here(host: str | None, addresses: Sequence[str]) -> str:
    """Return the name or address by which programs on this machine reach a manager that listens on ``addresses``."""
    if host not in (*_LOOPBACK, *_ANY_ADDRESS):
        return str(host)
    reached = [_ANY_ADDRESS.get(address, address) for address in addresses]
    with suppress(OSError):
        if {entry[4][0] for entry in socket.getaddrinfo("localhost", None)}.intersection(reached):
            return "localhost"
    return reached[0]  # such as ::1 on a machine whose localhost is an IPv4 address


def share_memory_between_threads() -> None:
    """Make all threads of this process use one malloc arena. This must be called before a second thread starts.

    By default, glibc gives threads separate arenas, and each arena keeps freed memory. Python sometimes reallocates its
    table of interned names, about a megabyte, in whichever thread runs, so in time many arenas would each keep a freed
    megabyte. Threads seldom wait for the one arena, because they usually hold the GIL while they allocate. Without
    glibc, or if ``MALLOC_ARENA_MAX`` is set, this function does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)


def _fail(error: KruiseAgentsError, code: int) -> None:
    click.echo(f"kruise-agents: {error}", err=True)
    variables = environment_variables(click.get_current_context())
    if variables and isinstance(error, ConfigurationError):
        click.echo(f"Set by environment variables: {', '.join(variables)}", err=True)
    sys.exit(code)
