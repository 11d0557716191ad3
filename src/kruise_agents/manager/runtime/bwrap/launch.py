"""Starting programs in namespaces of their own, held back until their ids and their control group are in place."""

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
from .binary import find_bwrap, shut_calls

_RUN_SECONDS = 20
# --die-with-parent ends what is left inside when bwrap itself ends. So that the manager's end is not the parent's,
# bwrap gets one of its own; the second command keeps the shell from becoming bwrap.
_KEEPER = ("/bin/sh", "-c", '"$@"; exit $?', "sh")


@dataclass(frozen=True, slots=True)
class Setup:
    """What a command has, beside its namespaces.

    Parameters:
        identities: ids for its user namespace; None: the one that its options name.
        output: where its standard output and error go.
        descriptors: what it inherits, by the same numbers.
        before: what stands before the command of ``bwrap``, to put it within the limits.
        group: puts its first process into a control group.
    """

    identities: Identities | None
    output: IO[bytes]
    descriptors: Sequence[int] = ()
    prefix: Sequence[str] = ()
    join_group: Callable[[int], None] | None = None


def start(
    options: Sequence[str], command: Sequence[str], setup: Setup, pipes: tuple[int, int] | None = None
) -> Launched:
    """Start ``bwrap``, wait for its namespaces, map the ids into them, and let the command run.

    Parameters:
        pipes: its standard input and output, if not nothing and the output of all.

    Raises:
        OSError: one of these failed; nothing is left running.
    """
    with contextlib.ExitStack() as kept, contextlib.ExitStack() as handed_over:
        info_read, info_write = pipe(kept, handed_over)
        gate_read, gate_write = pipe(handed_over, kept)
        gate = "--userns-block-fd" if setup.identities is not None else "--block-fd"
        options = [gate, str(gate_read), "--info-fd", str(info_write), *options]
        # The reading end too: a bwrap that cannot tell ends on the spot, and leaves a child that waits for it for ever.
        inherited = [info_write, info_read, gate_read, *setup.descriptors]
        if shut := shut_calls():
            inherited.append(_in_memory(shut, handed_over))
            options = ["--seccomp", str(inherited[-1]), *options]
        # Not on the command line, where `ps` in the sandbox would show the host's folders.
        hidden = _in_memory("\0".join(options).encode(), handed_over)
        process = subprocess.Popen(
            [*_KEEPER, *setup.prefix, find_bwrap(), "--args", str(hidden), "--", *command],
            env={},
            cwd="/",
            stdin=pipes[0] if pipes is not None else subprocess.DEVNULL,
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
                os.write(gate_write, b"x")
            except OSError:
                end(Launched(process, first))
                raise
    return Launched(process, first)


def run(options: Sequence[str], command: Sequence[str], identities: Identities | None) -> str:
    """Run a command in namespaces to its end and return what it says.

    Raises:
        OSError: it could not be started, did not end, or failed; the text says why.
    """
    with tempfile.TemporaryFile() as output:
        code = wait_for(start(options, command, Setup(identities, output)), command[0])
        text = output_of(output)
        if code != 0:
            raise OSError(text or f"{command[0]} ended with code {code}")
        return text


def wait_for(launched: Launched, name: str) -> int:
    """Wait for something that takes a moment, and return its exit code.

    Raises:
        OSError: it took too long, and was ended.
    """
    try:
        return launched.process.wait(_RUN_SECONDS)
    except subprocess.TimeoutExpired:
        end(launched)
        raise OSError(f"{name} did not end within {_RUN_SECONDS} seconds") from None


def end(launched: Launched) -> None:
    """End a program with all that is in its namespaces."""
    # The first process ends with bwrap only when that has let it run; until then it would wait for ever.
    if launched.first_pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(launched.first_pid, signal.SIGKILL)
    launched.process.kill()
    launched.process.wait()


def output_of(output: IO[bytes]) -> str:
    """All that was written to a file."""
    output.seek(0)
    return output.read().decode(errors="replace").strip()


def pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe, read and written by those who close these."""
    read, write = os.pipe()
    reader.callback(os.close, read)
    writer.callback(os.close, write)
    return read, write


def _first_process(info: int) -> int | None:
    """What ``bwrap`` says of the first process inside, or None when it failed before it made one."""
    text = b""
    while not text.rstrip().endswith(b"}"):
        piece = os.read(info, 4096)
        if not piece:
            return None
        text += piece
    return int(json.loads(text)["child-pid"])


def _in_memory(data: bytes, owner: contextlib.ExitStack) -> int:
    """A descriptor from which ``data`` can be read once."""
    descriptor = os.memfd_create("bwrap-options", os.MFD_CLOEXEC)
    owner.callback(os.close, descriptor)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
