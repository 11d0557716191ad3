"""Embedded managers on this machine: how to reach a running one, and how to run one as long as a program needs it.

::

    from kruise_agents.embedded import start_manager

    with start_manager("--no-internet") as manager:
        subprocess.run(["pytest"], env=os.environ | manager.environment())
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from .errors import ConfigurationError, KruiseAgentsError, RuntimeUnavailableError
from .protocol.domains import parse_domain
from .protocol.fields import FieldError, Fields

CONNECTION_FILE = "manager.json"
"""The name of the connection file in the state folder of a running manager."""
NO_NAMESPACES = 3
"""The exit code of ``serve`` on a machine that cannot isolate sandboxes."""
_START_SECONDS = 120.0
_END_SECONDS = 30.0
_LAST_LINES = 15
_OF_ANOTHER_MANAGER = (
    *("STATE_DIR", "TEMPORARY", "KEEP", "API_KEY", "NEW_KEY", "HOST", "PORT", "DOMAIN", "TLS", "CERT", "KEY"),
    *("READY_FILE", "JSON", "END_WITH"),
)


@dataclass(frozen=True, slots=True)
class Connection:
    """The way to reach a manager from this machine.

    Attributes:
        version: The version of kruise-agents that the manager runs.
        pid: The manager's process ID.
        url: The manager's address on this machine, such as ``http://localhost:7788``.
        domain: The value for ``E2B_DOMAIN``: the option ``--domain``, else the host and port of ``url``.
        scheme: ``http``, or ``https`` with ``--tls`` or ``--cert``.
        api_url: The address of the API, such as ``http://localhost:7788/kruise/api``.
        api_key: The manager's first API key.
        ca_file: The certificate authority that clients must trust, if the manager made the certificate.
        state_dir: The manager's state folder.
    """

    version: str
    pid: int
    url: str
    domain: str
    scheme: str
    api_url: str
    api_key: str = field(repr=False)
    ca_file: Path | None
    state_dir: Path

    @property
    def https(self) -> bool:
        """The argument for ``patch_e2b()``."""
        return self.scheme == "https"

    def environment(self) -> dict[str, str]:
        """Return the variables that a program with the patch needs.

        ``NO_PROXY`` is one of them if this process has a proxy that would get the requests to this machine.
        """
        variables = {"E2B_DOMAIN": self.domain, "E2B_API_KEY": self.api_key}
        if self.ca_file is not None:
            variables["SSL_CERT_FILE"] = str(self.ca_file)
        if self.url == f"{self.scheme}://{self.domain}":
            variables |= _past_proxies(parse_domain(self.domain).host.strip("[]"))
        return variables

    def to_json(self) -> str:
        """Return the connection as a JSON object on one line, with the key."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the connection that :meth:`to_json` gave. Raise ValueError or FieldError for other text."""
        fields = Fields.parse(text)
        names = ("version", "url", "domain", "scheme", "api_url", "api_key")
        authority = fields.text("ca_file")
        return cls(
            **{name: fields.required_text(name) for name in names},
            pid=fields.required_integer("pid"),
            ca_file=None if authority is None else Path(authority),
            state_dir=Path(fields.required_text("state_dir")),
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the connection in a connection file: that of a state folder, or that of ``serve --ready-file``.

        Raises:
            ConfigurationError: There is no such file, or the file is damaged.
        """
        try:
            return cls.from_json(path.read_bytes())
        except OSError as error:
            raise ConfigurationError(f"the connection file {path} cannot be read: {error.strerror}") from error
        except (ValueError, FieldError) as error:
            raise ConfigurationError(f"{path} is no connection file of a manager: {error}") from error

    @contextlib.contextmanager
    def published(self, path: Path) -> Iterator[None]:
        """Write the connection file ``path`` for the time of the block. Readers never see a part of the file.

        Raises:
            ConfigurationError: The file cannot be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # with mode 600
                stack.callback(Path(draft).unlink, missing_ok=True)
                file = stack.enter_context(os.fdopen(descriptor, "w", encoding="utf-8"))
                file.write(self.to_json() + "\n")
                file.flush()
                # Readers see by the lock that the manager lives. The kernel drops the lock when the process ends.
                fcntl.flock(file, fcntl.LOCK_EX)
                os.rename(draft, path)  # noqa: PTH104 - mkstemp gives a text
            except OSError as error:
                raise ConfigurationError(f"the connection file {path} cannot be written: {error.strerror}") from error
            stack.callback(_remove_own, path, os.fstat(file.fileno()))
            yield


def _remove_own(path: Path, own: os.stat_result) -> None:
    with contextlib.suppress(OSError):  # the folder may be gone, and another manager may have replaced the file
        if os.path.samestat(path.lstat(), own):
            path.unlink()


def _past_proxies(host: str) -> dict[str, str]:
    """Return the variables that keep requests to a host of this machine away from the proxy of this environment."""
    from urllib.request import getproxies_environment, proxy_bypass  # slow to import

    if not {"http", "https", "all"} & getproxies_environment().keys() or proxy_bypass(host):
        return {}
    hosts = ",".join(dict.fromkeys([host, "localhost", "127.0.0.1", "::1"]))
    # Programs differ in which of the two names they read first.
    names = [name for name in ("NO_PROXY", "no_proxy") if os.environ.get(name)] or ["NO_PROXY"]
    return {name: ",".join(filter(None, [os.environ.get(name), hosts])) for name in names}


def default_state_dir() -> Path:
    """Return the state folder of ``serve`` without ``--state-dir``, which ``KRUISE_AGENTS_STATE_DIR`` may name."""
    stated = os.environ.get("KRUISE_AGENTS_STATE_DIR")
    return Path(stated) if stated else user_folder("XDG_STATE_HOME", ".local/state")


def user_folder(variable: str, default: str) -> Path:
    """Return the folder ``kruise-agents`` in the folder that ``variable`` names, or in ``default`` below the home."""
    return Path(os.environ.get(variable) or Path.home() / default) / "kruise-agents"


def running_manager(state_dir: Path) -> Connection:
    """Return the connection of the manager that uses a state folder now.

    Raises:
        ConfigurationError: No manager is ready there.
    """
    path = state_dir / CONNECTION_FILE
    if not _is_locked(path):
        raise ConfigurationError(
            f"no manager runs with the state folder {state_dir}; start one with 'kruise-agents serve', or name the "
            f"folder of a running one with --state-dir"
        )
    return Connection.read(path)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(f"the connection file {path} cannot be read: {error.strerror}") from error
    return False


@contextlib.contextmanager
def start_manager(*options: str, state_dir: Path | None = None, log: Path | None = None) -> Iterator[Connection]:
    """Run ``kruise-agents serve`` on a free port for the time of the block. Needs the extra ``local``.

    The manager ends as at Ctrl-C when the block ends, and also when this process ends without leaving the block.
    Of the variables ``KRUISE_AGENTS_*`` those count that say nothing about address, key, folder and end of a manager.

    Args:
        options: More options of ``serve``, such as ``--no-internet``.
        state_dir: The manager's state folder. By default a new folder, which is removed afterwards.
        log: The file that gets the manager's log. By default the log is dropped.

    Raises:
        RuntimeUnavailableError: This machine cannot isolate sandboxes. ``--runtime process`` does without.
        ConfigurationError: The file ``log`` cannot be written.
        KruiseAgentsError: The manager did not start; the message has the last lines of its log.
    """
    # -P: a module of the working directory must not stand in for one of the manager's.
    command = [sys.executable, "-P", "-m", "kruise_agents", "serve", "--port", "0", "--json"]
    command += ["--end-with", str(os.getpid())]
    command += ["--temporary"] if state_dir is None else ["--state-dir", str(state_dir)]
    variables = {f"KRUISE_AGENTS_{name}" for name in _OF_ANOTHER_MANAGER}
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(_opened(log))
        process = subprocess.Popen(
            [*command, *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C in the terminal is for the program that needs the manager
        )
        stack.callback(_end, process)
        line = _first_line(process)
        try:
            connection = Connection.from_json(line)
        except (ValueError, FieldError):
            _end(process)
            raise _failure(process, errors) from None
        if state_dir is None:  # a manager that was killed has left its folder
            stack.callback(shutil.rmtree, connection.state_dir, ignore_errors=True)
            stack.callback(_end, process)
        yield connection


def _opened(log: Path | None) -> IO[bytes]:
    if log is None:
        return tempfile.TemporaryFile()
    try:
        return log.open("w+b")
    except OSError as error:
        raise ConfigurationError(f"the file for the log, {log}, cannot be written: {error.strerror}") from error


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """Return the first line of the manager's output, or what is there of it when the manager ends or hangs."""
    assert process.stdout is not None
    descriptor, deadline, line = process.stdout.fileno(), time.monotonic() + _START_SECONDS, b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not line.endswith(b"\n") and selector.select(deadline - time.monotonic()):
            piece = os.read(descriptor, 65536)
            if not piece:
                break
            line += piece
    return line


def _end(process: subprocess.Popen[Any]) -> None:
    """End a manager as Ctrl-C does, and wait for its end."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _failure(process: subprocess.Popen[Any], errors: IO[bytes]) -> KruiseAgentsError:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
    kind = RuntimeUnavailableError if process.returncode == NO_NAMESPACES else KruiseAgentsError
    text = "\n".join(lines) or "it wrote nothing"
    return kind(f"the manager did not start (exit code {process.returncode}):\n{text}")
