"""The process of a kernel: its process group, its end, and its last output."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from .forked_kernel import ForkedProcess, WaitingKernel

LAST_OUTPUT_BYTES = 2000  # of a failed kernel, in an error message


class KernelProcess:
    """A child process that leads its own process group.

    A pidfd reports the end of the process in the same turn of the event loop. The rest of the group is killed then, and
    the process is reaped, so that no child and no zombie is left.
    """

    def __init__(self, process: subprocess.Popen[bytes] | ForkedProcess, output: IO[bytes]) -> None:
        self._process = process
        self._output = output
        self._last_output = ""
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
        """Start ``command`` in its own session, with exactly this environment; raise OSError.

        The fork that is ``waiting`` becomes the process if it fits; otherwise it is ended.
        """
        # An unnamed file needs no reader and leaves nothing behind.
        output = tempfile.TemporaryFile(dir=output_folder)  # noqa: SIM115 - closed at the end of the process
        try:
            process: subprocess.Popen[bytes] | ForkedProcess
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
        return self._process.pid

    def on_end(self, callback: Callable[[], None]) -> None:
        self._when_ended = callback

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole group, including programs that a cell waits for."""
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def last_output(self) -> str:
        """Return the end of the output from before the kernel took its output over."""
        if not self._output.closed:
            size = self._output.seek(0, os.SEEK_END)
            self._output.seek(max(0, size - LAST_OUTPUT_BYTES))
            self._last_output = self._output.read().decode(errors="replace").strip()
        return self._last_output

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # Before the process is reaped, because its id, and so the group's, may be reused after that.
        self.signal(signal.SIGKILL)
        self._process.wait()
        self.last_output()
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
