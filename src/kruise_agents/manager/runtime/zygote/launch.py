"""Functions that start a zygote, and that let processes of ours enter a sandbox and run the sandbox's program there."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ....protocol.control import TRIAL_OUTPUT, ForkOrder, ForkRequest
from ..bwrap import placeholder
from ..bwrap.launch import Setup, empty_input, end, output_of, pipe, start, wait_for
from ..bwrap.options import HOME, VARIABLES
from ..files.identities import Identities
from ..launch import Launched
from ..limits.limits import ProcessLimits
from ..pause.freezer import group_of
from .process import Zygote, ZygoteError, enter_once

_READ_ONLY = ("--unshare-user", "--unshare-pid", "--die-with-parent", "--cap-drop", "ALL", "--ro-bind", "/", "/")


class Send(Protocol):
    """A function that hands a request, with its descriptors, to a process that carries the request out."""

    def __call__(self, request: ForkRequest, descriptors: Sequence[int], output: int, /) -> None: ...


def start_inside(options: Sequence[str], send: Send, order: ForkOrder, setup: Setup) -> Launched:
    """Start a sandbox's program as a process that enters the sandbox, and gives up its rights before the program runs.

    ``bwrap`` makes the namespaces, with a placeholder in them that only waits. The process then enters the namespaces.
    Raises what ``send`` raises, and OSError for other problems. After an error, the namespaces end.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        launched, ready, program_pipe = _start_placeholder(options, setup, ours, theirs)
        if launched.first_pid is None:
            return launched
        output = setup.output.fileno()
        handed = {0: empty_input(ours), 1: output, 2: output, **{number: number for number in setup.descriptors}}
        try:
            with _members_of(launched.first_pid) as members:
                groups = [] if members is None else [members]
                request = ForkRequest(order, launched.first_pid, bool(groups), list(handed))
                send(request, [ready, program_pipe, *groups, *handed.values()], output)
        except BaseException:
            end(launched)
            raise
        return launched


def run_inside(
    options: Sequence[str], command: Sequence[str], identities: Identities | None, limits: ProcessLimits
) -> str:
    """Run a command as the root of a sandbox, or as its only user, and return its output when it has ended.

    Raises OSError if the sandbox cannot be made. An error on the way into the sandbox is part of the output.
    """
    order = ForkOrder(command, VARIABLES, HOME, several_users=identities is not None, execute=True)
    with tempfile.TemporaryFile() as output:
        setup = Setup(identities, output, limits=limits)
        wait_for(start_inside(options, enter_once, order, setup), command[0])
        return output_of(output)


def make_zygote(options: Sequence[str], identities: Identities | None) -> Zygote:
    """Start a zygote, and test a fork in namespaces with these ``bwrap`` options. Raises ZygoteError on failure."""
    try:
        with _opened_read_only(Path(sys.executable).resolve()) as (interpreter, namespace):
            zygote = Zygote(interpreter, os.dup(namespace))
        try:
            zygote.wait_until_ready()
            _try(zygote, options, identities)
        except BaseException:
            zygote.close()
            raise
    except OSError as error:
        raise ZygoteError(str(error)) from error
    return zygote


def _try(zygote: Zygote, options: Sequence[str], identities: Identities | None) -> None:
    order = ForkOrder((), VARIABLES, HOME, trial=True, several_users=identities is not None)
    with tempfile.TemporaryFile() as output:
        wait_for(start_inside(options, zygote.fork, order, Setup(identities, output)), "a fork")
        if output_of(output) != TRIAL_OUTPUT:
            raise ZygoteError(output_of(output) or "a fork did not enter")


def _start_placeholder(
    options: Sequence[str], setup: Setup, ours: contextlib.ExitStack, theirs: contextlib.ExitStack
) -> tuple[Launched, int, int]:
    """Start namespaces with a placeholder. Return both, and the placeholder's output and input, which ``ours`` closes.

    The placeholder writes one line, and ends when its input ends.
    """
    placeholder_input, program_pipe = pipe(theirs, ours)
    ready, placeholder_output = pipe(ours, theirs)
    program = placeholder.make_placeholder()
    theirs.callback(os.close, program)
    options = [*options, "--clearenv", "--chdir", "/"]
    own = replace(setup, descriptors=(program,))
    launched = start(options, placeholder.command(program), own, (placeholder_input, placeholder_output))
    theirs.close()
    return launched, ready, program_pipe


@contextlib.contextmanager
def _members_of(pid: int) -> Iterator[int | None]:
    """Yield a descriptor for joining the control group of ``pid``, or None if ``pid`` is in no sandbox's group."""
    group = group_of(pid)
    if group is None:
        yield None
        return
    with (group / "cgroup.procs").open("wb", buffering=0) as members:
        yield members.fileno()


@contextlib.contextmanager
def _opened_read_only(path: Path) -> Iterator[tuple[int, int]]:
    """Open a file through a read-only mount. Yield descriptors of the file and of the mount's namespace.

    While the descriptor of the namespace is open, ``/proc`` shows the file with its full path.
    """
    with tempfile.TemporaryFile() as output, contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        launched, ready, _ = _start_placeholder(_READ_ONLY, Setup(None, output), ours, theirs)
        try:
            if launched.first_pid is None or not os.read(ready, 1):
                raise OSError(output_of(output) or "bwrap did not start")
            first = Path(f"/proc/{launched.first_pid}")
            file = os.open(f"{first}/root{path}", os.O_RDONLY | os.O_CLOEXEC)
            ours.callback(os.close, file)
            namespace = os.open(first / "ns" / "mnt", os.O_RDONLY | os.O_CLOEXEC)
            ours.callback(os.close, namespace)
            yield file, namespace
        finally:
            end(launched)
