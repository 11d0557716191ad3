"""Functions that start a zygote, and that start programs of sandboxes as forks of the zygote."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ....protocol.control import PLACEHOLDER, TRIAL_OUTPUT, ForkOrder
from ..bwrap.launch import Setup, empty_input, end, output_of, pipe, start, wait_for
from ..bwrap.options import HOME, VARIABLES
from ..files.identities import Identities
from ..launch import Launched
from ..pause.freezer import group_of
from .process import Zygote, ZygoteError

_READ_ONLY = ("--unshare-user", "--unshare-pid", "--die-with-parent", "--cap-drop", "ALL", "--ro-bind", "/", "/")


def start_fork(options: Sequence[str], zygote: Zygote, order: ForkOrder, setup: Setup) -> Launched:
    """Start a fork of the zygote as a sandbox's program.

    ``bwrap`` makes the namespaces, with a shell in them that only waits. The fork then enters these namespaces.
    Raises ZygoteError if the zygote does not fork, and OSError for other problems. After an error, the namespaces end.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        placeholder_input, program_pipe = pipe(theirs, ours)
        ready, placeholder_output = pipe(ours, theirs)
        without_descriptors = replace(setup, descriptors=())
        launched = start(options, PLACEHOLDER, without_descriptors, (placeholder_input, placeholder_output))
        if launched.first_pid is None:
            return launched
        output = setup.output.fileno()
        handed = {0: empty_input(ours), 1: output, 2: output, **{number: number for number in setup.descriptors}}
        try:
            with _members_of(launched.first_pid) as members:
                zygote.fork(order, launched.first_pid, members, (ready, program_pipe), handed)
        except BaseException:
            end(launched)
            raise
        return launched


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
        wait_for(start_fork(options, zygote, order, Setup(identities, output)), "a fork")
        if output_of(output) != TRIAL_OUTPUT:
            raise ZygoteError(output_of(output) or "a fork did not enter")


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
        placeholder_input, _ = pipe(theirs, ours)
        ready, placeholder_output = pipe(ours, theirs)
        launched = start(_READ_ONLY, PLACEHOLDER, Setup(None, output), (placeholder_input, placeholder_output))
        theirs.close()
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
