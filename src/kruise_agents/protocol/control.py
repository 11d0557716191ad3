"""The contract between the manager and the program that it starts in each sandbox.

The manager starts the program with :class:`ProgramArguments`, and sends HTTP requests to the program's control socket:
an :class:`Endpoint` is a method and a path, a :class:`Message` is a body. The relay socket leads to every port that
has no Unix socket of its own. If the program is forked, the fork reads a :class:`ForkRequest` first.

The manager and the program may be of different releases, because a manager takes over the sandboxes of an earlier
manager. So the names of sockets, the endpoints and the keys of the messages must not change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NamedTuple, Self, get_args, get_type_hints

from .names import CODE_INTERPRETER_PORT, ENVD_PORT

CONTROL_SOCKET = "control"
RELAY_SOCKET = "relay"
SERVED_PORTS = {ENVD_PORT: "envd", CODE_INTERPRETER_PORT: "code-interpreter"}
"""Ports that can have a Unix socket of their own, with the name of that socket."""

# On a connection to the relay, the manager writes a port and reads one byte. After RELAY_OPEN, the relay passes bytes
# between the manager and the port in both directions; after RELAY_CLOSED it closes the connection.
RELAY_OPEN = b"\x01"
RELAY_CLOSED = b"\x00"
RELAY_PORT_BYTES = 2


def encode_port(port: int) -> bytes:
    """Return a port as the two bytes that the manager writes first on a connection to the relay."""
    return port.to_bytes(RELAY_PORT_BYTES, "big")


def decode_port(data: bytes) -> int:
    """Return the port in the bytes of :func:`encode_port`."""
    return int.from_bytes(data, "big")


# The lines in the program's log. Their times are in UTC.
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LOG_LINE = r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (?P<level>[A-Z]+) (?P<logger>[^\s:]+): (?P<message>.*)"


class Endpoint(NamedTuple):
    """A request that the manager can send on the control socket."""

    method: str
    path: str


PREPARE = Endpoint("POST", "/prepare")
"""Takes a :class:`PrepareOrder`. The answer is 204 after the order is carried out, or 500 with the reason as text."""
INIT = Endpoint("POST", "/init")
"""Takes :class:`InitSettings`. The answer 204 also means that the program serves all its sockets."""
SET_END_TIME = Endpoint("POST", "/end-time")
GET_VARIABLES = Endpoint("GET", "/variables")
ANNOUNCE_KILL = Endpoint("POST", "/killing")


_known_fields: dict[type, tuple[tuple[str, str, Any], ...]] = {}


def _wire_fields(kind: type) -> tuple[tuple[str, str, Any], ...]:
    """Return each field's name, its JSON key or command line option (stated by ``Annotated``), and its type."""
    if kind not in _known_fields:
        hints = get_type_hints(kind, include_extras=True).items()
        _known_fields[kind] = tuple((name, *_annotated(name, hint)) for name, hint in hints)
    return _known_fields[kind]


def _annotated(name: str, hint: Any) -> tuple[str, Any]:
    return (hint.__metadata__[0], hint.__origin__) if hasattr(hint, "__metadata__") else (name, hint)


def _without_none(kind: Any) -> Any:
    return next(option for option in (get_args(kind) or (kind,)) if option is not NoneType)


class Message:
    """Base class of dataclasses sent as JSON objects. A key is the field's name, unless ``Annotated`` states a key."""

    __slots__ = ()

    def to_json(self) -> bytes:
        return json.dumps(self.to_values()).encode()

    def to_values(self) -> dict[str, Any]:
        values = {key: getattr(self, name) for name, key, _ in _wire_fields(type(self))}
        return {key: value.to_values() if isinstance(value, Message) else value for key, value in values.items()}

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Return the message that :meth:`to_json` wrote. A missing key raises KeyError; the types are not checked."""
        return cls.from_values(json.loads(data))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        read = {}
        for name, key, kind in _wire_fields(cls):
            value, inner = values[key], _without_none(kind)
            nested = isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, Message)
            read[name] = inner.from_values(value) if nested else value
        return cls(**read)


DEFAULT_READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ReadyCheck(Message):
    """A check that tells when a start command is ready. Exactly one of ``command``, ``port`` and ``url`` is given.

    The check passes when the command succeeds, when the port accepts a connection, or when the ``http://`` URL on the
    sandbox's loopback answers with a status below 400. The program repeats a failed check for up to ``seconds``. Each
    try takes at most five seconds.
    """

    command: str | None = None
    port: int | None = None
    url: str | None = None
    seconds: float = DEFAULT_READY_SECONDS


@dataclass(frozen=True, slots=True)
class PrepareOrder(Message):
    """The order to prepare a sandbox before a user gets the sandbox.

    The program runs the command ``start`` and waits until the check ``ready`` passes; both can be absent. With
    ``kernel``, the program also waits for the default Jupyter kernel of the code interpreter.
    """

    variables: Annotated[Mapping[str, str], "envVars"]  # of all processes that start before INIT
    start: str | None
    ready: ReadyCheck | None
    kernel: bool


@dataclass(frozen=True, slots=True)
class InitSettings(Message):
    """The settings that a sandbox gets when it is handed to a user. A later ``INIT`` replaces all these settings."""

    access_token: Annotated[str | None, "accessToken"]  # None: envd asks for none
    variables: Annotated[Mapping[str, str], "envVars"]
    seconds_left: Annotated[float | None, "secondsLeft"]  # until the sandbox ends by itself; None: never


@dataclass(frozen=True, slots=True)
class EndTime(Message):
    """The new number of seconds until a sandbox ends by itself; None: the sandbox does not end by itself."""

    seconds_left: Annotated[float | None, "secondsLeft"]


@dataclass(frozen=True, slots=True)
class Variables(Message):
    """The answer to ``GET_VARIABLES``: the environment variables of the last ``PREPARE`` or ``INIT``."""

    variables: Annotated[Mapping[str, str], "envVars"]


@dataclass(frozen=True, slots=True)
class KillNotice(Message):
    """The announcement that the manager is about to kill a process, which has the number ``pid`` inside the sandbox."""

    pid: int
    reason: Annotated[str, "why"]


class _Arguments:
    """Base class of dataclasses that are passed as command line options. ``Annotated`` states the option of a field."""

    __slots__ = ()

    def to_argv(self) -> list[str]:
        argv: list[str] = []
        for name, option, _ in _wire_fields(type(self)):
            value = getattr(self, name)
            if isinstance(value, _Arguments):
                argv += value.to_argv()
            elif value is True:
                argv.append(option)
            elif value is not None and value is not False:
                argv += [option, str(value)]
        return argv

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        values: dict[str, Any] = {}
        for name, option, kind in _wire_fields(cls):
            if isinstance(kind, type) and issubclass(kind, _Arguments):
                values[name] = kind.from_options(options)
            elif option in options:
                values[name] = kind is bool or _without_none(kind)(options[option])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class ProgramDescriptors(_Arguments):
    """The descriptors that the program inherits: its listening sockets, and the read end of a pipe.

    Only the manager holds the write end of this pipe, and writes nothing. Until ``INIT``, the program exits if the
    manager exits or closes the write end.
    """

    parent_pipe: Annotated[int, "--parent-pipe-fd"]
    control: Annotated[int, "--control-fd"]
    relay: Annotated[int, "--relay-fd"]
    envd: Annotated[int, "--envd-fd"]
    code_interpreter: Annotated[int | None, "--code-interpreter-fd"] = None

    def numbers(self) -> list[int]:
        numbers = (self.parent_pipe, self.control, self.relay, self.envd, self.code_interpreter)
        return [number for number in numbers if number is not None]


@dataclass(frozen=True, slots=True)
class ProgramLimits(_Arguments):
    """Limits of the whole sandbox, in bytes. The program only reports these limits; the manager enforces them."""

    memory: Annotated[int | None, "--memory"] = None
    disk: Annotated[int | None, "--disk"] = None


@dataclass(frozen=True, slots=True)
class ProgramArguments(_Arguments):
    """The command line of the program in a sandbox."""

    user: Annotated[str, "--user"]  # the default user
    home: Annotated[Path, "--home"]  # of the default user
    path: Annotated[str, "--path"]  # PATH of every program
    python: Annotated[Path, "--python"]  # the interpreter for kernels
    descriptors: ProgramDescriptors
    limits: ProgramLimits = field(default_factory=ProgramLimits)
    several_users: Annotated[bool, "--several-users"] = False  # the user namespace has ids for root and others
    isolated: Annotated[bool, "--isolated"] = False  # the sandbox has a file tree and a loopback of its own
    own_init: Annotated[bool, "--own-init"] = False  # no pid namespace: a parent process reaps and ends all others

    @classmethod
    def parse(cls, argv: Sequence[str]) -> Self:
        options = dict[str, str]()
        for option, value in zip(argv, [*argv[1:], "--"], strict=True):
            if option.startswith("--"):
                options[option] = "" if value.startswith("--") else value
        return cls.from_options(options)


PROGRAM_MODULE = "kruise_agents.sandbox"
_INTERPRETER_OPTIONS = ("-I", "-m")


def program_command(python: str, arguments: ProgramArguments) -> list[str]:
    """Return the command line that starts the program with the interpreter ``python``."""
    return [python, *_INTERPRETER_OPTIONS, PROGRAM_MODULE, *arguments.to_argv()]


def program_argv(command: Sequence[str]) -> list[str]:
    """Return what ``sys.argv`` is after a start by ``command``: the module's name and the program's options."""
    return list(command[1 + len(_INTERPRETER_OPTIONS) :])


# For each FORK byte, the zygote forks. A socket comes with the byte, and the fork reads its request from that socket.
ZYGOTE_READY = b"r"
FORK = b"f"
FORKED = b"f"
FORK_REQUEST_BYTES = 65536
TRIAL_OUTPUT = "entered"
"""The output by which a trial (see :class:`ForkOrder`) reports that it is in the sandbox."""


@dataclass(frozen=True, slots=True)
class ForkOrder(Message):
    """The order to enter a sandbox and to run a program there, without rights on the host.

    The order goes to a fork of the zygote (the process that sandboxes fork from), or to a process that was started for
    this order only (see ``sandbox/zygote/once.py``) and that always executes the command. A trial fork runs no program:
    the fork enters a sandbox, writes :data:`TRIAL_OUTPUT` and ends.
    """

    command: Sequence[str]  # see program_command()
    environment: Mapping[str, str]
    directory: str  # the working directory and the default user's home, as the sandbox names it
    several_users: bool = False  # become the sandbox's root first
    execute: bool = False  # execute the command; otherwise the fork itself becomes the program
    kernel: bool = False  # fork once more, for the first kernel
    trial: bool = False


@dataclass(frozen=True, slots=True)
class ForkRequest(Message):
    """The first message to a process that is to follow a :class:`ForkOrder`. File descriptors come with the message.

    The first descriptors are for the process itself: a pipe from the sandbox's placeholder, a pipe to the placeholder,
    and the control group's ``cgroup.procs`` if there is a group. The other descriptors are for the program. The program
    also keeps the pipe to the placeholder open as long as the program runs.
    """

    order: ForkOrder
    first_pid: int  # of the sandbox's first process, as the host numbers it
    has_group: bool
    numbers: Sequence[int]  # that the descriptors for the program get

    @property
    def own_count(self) -> int:
        return 2 + self.has_group
