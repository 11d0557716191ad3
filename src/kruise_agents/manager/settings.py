"""The settings of a manager. Each setting declares its option, environment variable, limits and help in one place.

The options of ``kruise-agents serve`` and their reference page are made from these declarations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

from ..errors import ConfigurationError
from .runtime import LEAST, MIB, MOST, RUNTIMES, Limits
from .templates import MAX_POOL
from .traffic_tokens import DEFAULT_CLOCK_SKEW, DEFAULT_VALIDITY

VARIABLE_PREFIX = "KRUISE_AGENTS_"
OPENKRUISE = "openkruise"
"""The value of ``like`` that stands for OpenKruise's sandbox-manager."""


@dataclass(frozen=True, slots=True)
class Option:
    """The two ways to set a value: an option of ``serve`` and an environment variable."""

    name: str  # such as --port
    help: str  # for --help and the reference page
    negative: str | None = None  # the option that turns off a switch, if the switch is on by default
    least: int | None = None  # the smallest accepted number, in the option's unit
    most: int | None = None  # the largest accepted number, in the option's unit
    choices: tuple[str, ...] = ()  # the accepted words
    unit: str | None = None  # of a number, such as SECONDS
    factor: int = 1  # the setting's units in one unit of the option, such as the bytes of a MiB
    part: str | None = None  # the attribute of the setting that the option sets, if several options make up a setting
    default_text: str | None = None  # the default in words, if the value alone does not explain the default
    folder: bool = False  # whether the path of a file is refused
    multiple: bool = False  # whether the option may be given more than once

    @property
    def variable(self) -> str:
        return VARIABLE_PREFIX + self.name.removeprefix("--").replace("-", "_").upper()


@dataclass(frozen=True, slots=True)
class Declaration:
    """An option of ``serve`` that sets the setting ``name``. ``kind`` and ``default`` describe the option's value."""

    name: str
    option: Option
    kind: type
    default: Any
    required: bool = False

    @property
    def parameter(self) -> str:
        return self.option.part or self.name


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one manager.

    A manager may be started again with another first API key, which then owns everything that the old first key owned.
    Without keys the manager has the key of its state folder. With ``tls`` and no ``certificate`` the manager makes a
    certificate.
    """

    state_dir: Annotated[
        Path,
        Option(
            "--state-dir",
            "Folder in which the manager keeps everything. Created if missing.",
            default_text="$XDG_STATE_HOME/kruise-agents, else ~/.local/state/kruise-agents",
            folder=True,
        ),
    ]
    api_keys: Annotated[
        Sequence[str],
        Option(
            "--api-key",
            "API key that clients must send. Repeat the option for more keys. Other users of the machine can see "
            "options in the process list: prefer the environment variable KRUISE_AGENTS_API_KEY, which holds one key.",
            default_text="the key in the state folder, printed at start",
            multiple=True,
        ),
    ] = ()
    new_key: Annotated[
        bool,
        Option(
            "--new-key",
            "Replace the key in the state folder by a new one. What the old key owned belongs to the new key.",
        ),
    ] = False
    host: Annotated[str | None, Option("--host", "Address to listen on.", default_text="both loopback addresses")] = (
        None
    )
    port: Annotated[int, Option("--port", "Port to listen on. 0 takes a free port.", least=0, most=65535)] = 7788
    domain: Annotated[
        str | None,
        Option(
            "--domain",
            "Name by which clients reach the manager: host or host:port.",
            default_text="the Host header of each request",
        ),
    ] = None
    runtime: Annotated[
        str,
        Option(
            "--runtime",
            "How sandboxes are isolated. 'process' does not isolate them at all.",
            choices=tuple(sorted(RUNTIMES)),
        ),
    ] = "bubblewrap"
    limits: Annotated[
        Limits,
        Option("--cpus", "Processors that each sandbox may use.", least=LEAST["cpus"], most=MOST, part="cpus"),
        Option(
            "--memory",
            "Memory that each sandbox may use.",
            least=LEAST["memory"],
            most=MOST,
            unit="MIB",
            factor=MIB,
            part="memory",
        ),
        Option(
            "--processes",
            "Processes and threads that each sandbox may have.",
            least=LEAST["processes"],
            most=MOST,
            unit="NUMBER",
            part="processes",
        ),
        Option(
            "--disk",
            "Disk space that each sandbox may use, its initial files included.",
            least=LEAST["disk"],
            most=MOST,
            unit="MIB",
            factor=MIB,
            part="disk",
        ),
    ] = Limits()  # noqa: RUF009 - cannot be changed
    internet: Annotated[
        bool,
        Option(
            "--internet",
            "Let sandboxes reach the internet. Needs slirp4netns or pasta. The runtime 'process' always lets them.",
            negative="--no-internet",
        ),
    ] = True
    prefork: Annotated[
        bool,
        Option(
            "--prefork",
            "Start sandboxes as forks of one prepared process, which is faster and takes less memory. "
            "Without effect in the runtime 'process'.",
            negative="--no-prefork",
        ),
    ] = True
    tls: Annotated[
        bool,
        Option("--tls", "Serve https. Without --cert, the manager makes a certificate and prints how to trust it."),
    ] = False
    certificate: Annotated[
        Path | None, Option("--cert", "PEM file with the certificate and its chain. Implies --tls, needs --key.")
    ] = None
    private_key: Annotated[Path | None, Option("--key", "PEM file with the private key of --cert.")] = None
    keep: Annotated[
        bool, Option("--keep", "Leave sandboxes running when the manager ends. The next start takes them over.")
    ] = False
    templates: Annotated[
        Path | None,
        Option(
            "--templates",
            "Folder of TOML files, each of which describes a template.",
            default_text="kruise-agents/templates in $XDG_CONFIG_HOME, else in ~/.config, if it exists",
            folder=True,
        ),
    ] = None
    pool: Annotated[
        int,
        Option(
            "--pool",
            "Number of code-interpreter-v1 sandboxes kept ready, so that a create takes one at once.",
            least=0,
            most=MAX_POOL,
        ),
    ] = 1
    like: Annotated[
        str | None,
        Option(
            "--like",
            "Answer as another manager does, its misreadings included, so that programs for a cluster can be tested "
            "without one. 'openkruise': OpenKruise's sandbox-manager of August 2026.",
            choices=(OPENKRUISE,),
            default_text="answer as E2B's manager does",
        ),
    ] = None
    v1_only: Annotated[bool, Option("--v1-only", "The earlier name of --like openkruise.")] = False
    traffic_token_validity: Annotated[
        int,
        Option(
            "--traffic-access-token-validity",
            "Validity of the traffic access tokens of protected sandboxes.",
            least=1,
            most=DEFAULT_VALIDITY,
            unit="SECONDS",
            default_text="100 years",
        ),
    ] = DEFAULT_VALIDITY
    traffic_token_clock_skew: Annotated[
        float,
        Option(
            "--traffic-access-token-clock-skew",
            "Time for which a traffic access token is accepted after its end and before its start.",
            least=0,
            most=DEFAULT_VALIDITY,
            unit="SECONDS",
        ),
    ] = DEFAULT_CLOCK_SKEW

    @property
    def like_openkruise(self) -> bool:
        return self.v1_only or self.like == OPENKRUISE


def declarations() -> Iterator[Declaration]:
    """Yield the options of all fields of :class:`Settings`, in the order of the fields."""
    hints = get_type_hints(Settings, include_extras=True)
    for field in fields(Settings):
        kind, *options = get_args(hints[field.name])
        default = None if field.default is MISSING else field.default
        for option in options:
            if option.part is None:
                (plain,) = [each for each in get_args(kind) or [kind] if each is not NoneType]
                yield Declaration(field.name, option, plain, default, required=field.default is MISSING)
            else:
                yield Declaration(field.name, option, int, getattr(default, option.part) // option.factor)


def check_values(settings: Settings) -> None:
    """Raise a ConfigurationError for a wrong type, range or choice, and for a private key without a certificate."""
    for declaration in declarations():
        option, value, name = declaration.option, getattr(settings, declaration.name), declaration.name
        if option.part is not None:
            if not isinstance(value, Limits):
                raise ConfigurationError(f"{name} must be of the type Limits, got {value!r}")
            value, name = getattr(value, option.part), f"{name}.{option.part}"
        if option.multiple:
            if isinstance(value, str) or not all(isinstance(each, str) for each in value):
                raise ConfigurationError(f"{name} must be a list of str")
        elif value is not None or declaration.required or declaration.default is not None:
            _check_value(declaration, name, value)
    if settings.private_key is not None and settings.certificate is None:
        raise ConfigurationError("private_key is set and certificate is not: give both")


def _check_value(declaration: Declaration, name: str, value: Any) -> None:
    option, kind = declaration.option, declaration.kind
    accepted: Any = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
        raise ConfigurationError(f"{name} must be of the type {kind.__name__}, got {value!r}")
    if option.least is not None and option.most is not None:
        least, most = option.least * option.factor, option.most * option.factor
        if not least <= value <= most:  # nan fails this comparison too
            raise ConfigurationError(f"{name} must be a number from {least} to {most}, got {value!r}")
    if option.choices and value not in option.choices:
        raise ConfigurationError(f"{name} must be one of {', '.join(option.choices)}, got {value!r}")


def from_values(values: dict[str, Any]) -> dict[str, Any]:
    """Convert option values to fields of :class:`Settings`. The keys of ``values`` are click's parameter names.

    A field whose option has the value None is left out.
    """
    found: dict[str, Any] = {}
    parts: dict[str, int] = {}
    for declaration in declarations():
        value, option = values[declaration.parameter], declaration.option
        if option.part is not None:
            parts[option.part] = value * option.factor
        elif value is not None:
            found[declaration.name] = Path(value) if declaration.kind is Path else value
    return {**found, "limits": Limits(**parts)}
