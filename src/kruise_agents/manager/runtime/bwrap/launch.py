"""Functions that start programs in namespaces. A program waits until its user IDs, control group and limits are set."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from ..files.identities import Identities
from ..launch import Launched
from ..limits.limits import NO_LIMITS, ProcessLimits
from .binary import find_bwrap, seccomp_filter

RUN_SECONDS = 20
# --die-with-parent ends everything inside when bwrap ends, and bwrap when its parent ends. Sandboxes outlive the
# manager, so this shell is the parent of bwrap. With a single command, the shell would become bwrap.
_PARENT = ("/bin/sh", "-c", '"$@"; exit $?', "sh")


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings for :func:`start` that are not options of ``bwrap``."""

    identities: Identities | None  # None: the user namespace has only the ID that the options name
    output: IO[bytes]  # standard output and error
    descriptors: Sequence[int] = ()  # inherited under the same numbers
    prefix: Sequence[str] = ()  # a command that sets limits, then starts bwrap
    join_group: Callable[[int], None] | None = None  # puts the first process into a control group
    limits: ProcessLimits = NO_LIMITS  # of the first process and all that come after


def start(
    options: Sequence[str], command: Sequence[str], setup: Setup, pipes: tuple[int, int] | None = None
) -> Launched:
    """Start ``bwrap``, wait for its namespaces, map the IDs, then let the command run.

    After an OSError, nothing is left running. ``pipes`` are the standard input and output of the command. Without
    ``pipes``, the command has an empty input and writes to ``setup.output``. Standard error always goes to
    ``setup.output``.
    """
    with contextlib.ExitStack() as kept, contextlib.ExitStack() as handed_over:
        info_read, info_write = pipe(kept, handed_over)
        gate_read, gate_write = pipe(handed_over, kept)
        gate = "--userns-block-fd" if setup.identities is not None else "--block-fd"
        options = [gate, str(gate_read), "--info-fd", str(info_write), *options]
        # bwrap gets the reading end too: if nobody could read the info, bwrap would end and leave a child that waits.
        inherited = [info_write, info_read, gate_read, *setup.descriptors]
        if seccomp := seccomp_filter():
            inherited.append(_memory_file(seccomp, handed_over))
            options = ["--seccomp", str(inherited[-1]), *options]
        # The options are not on the command line, because `ps` in the sandbox would show the host's folders.
        hidden = _memory_file(os.fsencode("\0".join(options)), handed_over)
        process = subprocess.Popen(
            [*_PARENT, *setup.prefix, find_bwrap(), "--args", str(hidden), "--", *command],
            env={},
            cwd="/",
            stdin=pipes[0] if pipes is not None else empty_input(handed_over),
            stdout=pipes[1] if pipes is not None else setup.output,
            stderr=setup.output,
            pass_fds=[*inherited, hidden],
            start_new_session=True,
        )
        handed_over.close()
        first = _first_process(info_read)
        if first is not None:
            try:
                if setup.identities is not None:
                    setup.identities.give_to(first)
                if setup.join_group is not None:
                    setup.join_group(first)
                setup.limits.impose(first)
                os.write(gate_write, b"x")
            except OSError:
                end(Launched(process, first))
                raise
    return Launched(process, first)


def run(
    options: Sequence[str],
    command: Sequence[str],
    identities: Identities | None,
    seconds: float | None = RUN_SECONDS,
    limits: ProcessLimits = NO_LIMITS,
) -> str:
    """Run a command in namespaces until it ends, and return its output. If it fails, raise OSError with the reason.

    A command that takes more than ``seconds`` fails. None means no time limit.
    """
    with tempfile.TemporaryFile() as output:
        setup = Setup(identities, output, limits=limits)
        code = wait_for(start(options, command, setup), command[0], seconds)
        text = output_of(output)
        if code != 0:
            raise OSError(text or f"{command[0]} ended with code {code}")
        return text


def wait_for(launched: Launched, name: str, seconds: float | None = RUN_SECONDS) -> int:
    """Wait for a short command, and return its exit code. End a command that takes too long, and raise an OSError."""
    try:
        return launched.process.wait(seconds)
    except subprocess.TimeoutExpired:
        end(launched)
        raise OSError(f"{name} did not end within {seconds} seconds") from None


def end(launched: Launched) -> None:
    """End a program and everything else in its namespaces."""
    # Before bwrap lets the first process run, that process does not end with bwrap, and would wait for ever.
    if launched.first_pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(launched.first_pid, signal.SIGKILL)
    launched.process.kill()
    launched.process.wait()


def output_of(output: IO[bytes]) -> str:
    """Return the text that was written to a file, without white space at the beginning and the end."""
    output.seek(0)
    return output.read().decode(errors="replace").strip()


def pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """Return the two ends of a new pipe. ``reader`` closes the reading end, and ``writer`` the writing end."""
    read, write = os.pipe()
    reader.callback(os.close, read)
    writer.callback(os.close, write)
    return read, write


def empty_input(reader: contextlib.ExitStack) -> int:
    """Return a descriptor of an empty input. ``reader`` closes the descriptor.

    Use it in place of ``/dev/null`` for programs in a sandbox, because the owner of a file can change the file through
    any descriptor of the file.
    """
    with contextlib.ExitStack() as writer:
        return pipe(reader, writer)[0]


def _first_process(info: int) -> int | None:
    # Return the pid, or None if bwrap failed before it made a process.
    text = b""
    while not text.rstrip().endswith(b"}"):
        piece = os.read(info, 4096)
        if not piece:
            return None
        text += piece
    return int(json.loads(text)["child-pid"])


def _memory_file(data: bytes, owner: contextlib.ExitStack) -> int:
    descriptor = os.memfd_create("bwrap-options", os.MFD_CLOEXEC)
    owner.callback(os.close, descriptor)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
