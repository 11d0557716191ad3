"""The program of ``kruise-agents run``: started in place of this process, or as its child."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ..embedded import start_manager
from ..errors import KruiseAgentsError
from ..protocol.addresses import Scheme
from ..protocol.names import RUN_ADDRESS_VARIABLE
from .environment import for_manager_here, program_environment

EXIT_NOT_STARTED = 126
EXIT_NOT_FOUND = 127
_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that Python ignores from its start on. A program would inherit that."""
_PASSED_ON = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    signal.SIGCONT,  # blocked or not, the signal wakes this process
)


class ProgramError(KruiseAgentsError):
    """A program that cannot be started. ``exit_code`` is the exit code by which shells say so."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run(command: list[str], scheme: Scheme, *, traffic_tokens: bool, verbose: bool) -> NoReturn:
    """Become the program, which uses the manager of ``E2B_DOMAIN``.

    Raises:
        ProgramError: The program cannot be started.
        DomainError: ``E2B_DOMAIN`` has a wrong form.
    """
    _check(command)
    environment = program_environment(os.environ, scheme, traffic_tokens=traffic_tokens, verbose=verbose)
    if verbose:
        _tell_about(command, environment)
    _replace_process(command, environment)


def run_with_manager(
    command: list[str], options: Sequence[str], log: Path | None, *, traffic_tokens: bool, verbose: bool
) -> NoReturn:
    """Run the program with an embedded manager that ends after it, and end this process as the program ends.

    Args:
        options: Options of ``kruise-agents serve``.
        log: The file that gets the manager's log.

    Raises:
        ProgramError: The program cannot be started.
        KruiseAgentsError: The manager does not start.
    """
    _check(command)
    try:
        with start_manager(*options, log=log) as manager:
            environment = program_environment(
                for_manager_here(os.environ, manager.environment()),
                "https" if manager.https else "http",
                traffic_tokens=traffic_tokens,
                verbose=verbose,
            )
            if verbose:
                _tell_about(command, environment)
            status = _Child(command, environment).wait()
    except KeyboardInterrupt:  # before the program has started; later the signal is blocked here
        status = int(signal.SIGINT)
    _end_like(status)


def _check(command: list[str]) -> None:
    """Raise ProgramError if no such program is there."""
    name = command[0]
    if shutil.which(name) is not None:
        return
    if os.sep in name and Path(name).exists():
        raise ProgramError(
            f"{name!r} is not a program: make the file executable, or write its interpreter before it", EXIT_NOT_STARTED
        )
    raise ProgramError(f"there is no program {name!r}; check its name and PATH", EXIT_NOT_FOUND)


def _ignores_pythonpath(command: list[str]) -> bool:
    """Return whether the command starts a Python with ``-I``, ``-E`` or ``-S``, which runs no ``sitecustomize``."""
    if not Path(command[0]).name.startswith(("python", "pypy")):
        return False
    for argument in command[1:]:
        if not argument.startswith("-") or argument.startswith(("--", "-c", "-m")):
            return False
        if not argument.startswith(("-W", "-X")) and set("IES").intersection(argument):
            return True
    return False


def _replace_process(command: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by the program, which keeps the ID, the terminal and the parent of this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    for number in _PYTHON_IGNORES:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - the user's own command, without a shell
    except OSError as error:
        raise _not_started(command, error) from error


class _Child:
    """The program as a child of this process, in the same process group and with the same terminal."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_PASSED_ON})
        try:
            self._pid = os.posix_spawnp(
                command[0], command, environment, setsigmask=self._mask, setsigdef=_PYTHON_IGNORES
            )
        except OSError as error:
            raise _not_started(command, error) from error

    def wait(self) -> int:
        """Return the wait status of the program after its end, and pass on signals until then.

        Signals of the terminal, such as Ctrl-C, are not passed on: the terminal sends these to the program as well.
        """
        while True:
            found = signal.sigwaitinfo({signal.SIGCHLD, *_PASSED_ON})
            if found.si_signo != signal.SIGCHLD:
                if found.si_code <= 0:  # a process has sent the signal, not the kernel; sigaction(2)
                    os.kill(self._pid, found.si_signo)
                continue
            pid, status = os.waitpid(self._pid, os.WNOHANG | os.WUNTRACED)
            if pid and not os.WIFSTOPPED(status):
                return status
            if pid:
                os.kill(os.getpid(), signal.SIGTSTP)  # so that the shell which waits for this process sees the stop


def _end_like(status: int) -> NoReturn:
    """End this process as the program has ended: with its exit code, or by its signal."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program has dumped its own core
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        sys.exit(128 + number)
    sys.exit(os.WEXITSTATUS(status))


def _tell_about(command: list[str], environment: Mapping[str, str]) -> None:
    address = environment[RUN_ADDRESS_VARIABLE]
    lines = [f"the manager is {address}"]
    if not environment.get("E2B_DOMAIN"):
        lines = ["E2B_DOMAIN is not set, so only Python programs that set it themselves find the manager"]
    if _ignores_pythonpath(command):
        lines.append(f"{command[0]} leaves PYTHONPATH out here, so its SDK is not patched")
    for line in lines:
        print(f"kruise-agents run: {line}", file=sys.stderr)


def _not_started(command: list[str], error: OSError) -> ProgramError:
    return ProgramError(f"{command[0]!r} cannot be started: {error.strerror}", EXIT_NOT_STARTED)
