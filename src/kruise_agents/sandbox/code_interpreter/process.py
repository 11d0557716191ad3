"""The process of one kernel: its group, its end, and its last words."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol, Self

from .forked_kernel import WaitingKernel

__all__ = ["KernelProcess"]

LAST_WORDS = 2000
"""How many bytes of a failed kernel's output go into an error message."""


class _Child(Protocol):
    @property
    def pid(self) -> int: ...

    def wait(self) -> int: ...


class KernelProcess:
    """A child process that leads its own process group.

    Its end is noticed by a pidfd, in the same turn of the event loop. Whatever is left of the group is killed
    then, and the process is reaped: no child outlives it unseen, and no zombie stays.
    """

    def __init__(self, process: _Child, output: IO[bytes]) -> None:
        self._process = process
        self._output = output
        self._last_words = ""
        self._pidfd = os.pidfd_open(process.pid)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._when_ended: Callable[[], None] = lambda: None
        self.ended = asyncio.Event()

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        output_folder: Path,
        waiting: WaitingKernel | None = None,
    ) -> Self:
        """Starts ``command`` in a session of its own, with this environment and nothing else.

        The process that is ``waiting`` to become one is used, or ended. Raises OSError when it cannot be started.
        """
        # A file without a name: it needs no reader, and nothing is left of it.
        output = tempfile.TemporaryFile(dir=output_folder)  # noqa: SIM115 - closed at the end of the process
        try:
            process: _Child
            if waiting is not None and waiting.fits(environment):
                process = waiting.become(command, environment, cwd, output.fileno())
            else:
                process = _execute(command, environment, cwd, output)
                if waiting is not None:
                    waiting.drop()
        except BaseException:
            output.close()
            raise
        return cls(process, output)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        return self._process.pid

    def on_end(self, callback: Callable[[], None]) -> None:
        """Calls ``callback`` when the process has ended and was reaped."""
        self._when_ended = callback

    def signal(self, number: signal.Signals) -> None:
        """Signals the whole group: programs that a cell waits for as well."""
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def last_words(self) -> str:
        """The end of what the process wrote before its output was taken over by the kernel."""
        if not self._output.closed:
            size = self._output.seek(0, os.SEEK_END)
            self._output.seek(max(0, size - LAST_WORDS))
            self._last_words = self._output.read().decode(errors="replace").strip()
        return self._last_words

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # Before the process is reaped, because its id, and so the group's, may be given away after that.
        self.signal(signal.SIGKILL)
        self._process.wait()
        self.last_words()
        self._output.close()
        self.ended.set()
        self._when_ended()


def _execute(
    command: Sequence[str], environment: Mapping[str, str], cwd: Path, output: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=dict(environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
