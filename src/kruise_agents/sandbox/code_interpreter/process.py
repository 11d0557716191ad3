"""The process of a kernel, with its process group, its end and its last output."""

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

LAST_OUTPUT_BYTES = 2000  # most bytes of a failed kernel's output in an error text


class KernelProcess:
    """A child process that leads its own process group.

    A pidfd reports the end of the process to the event loop. Then the rest of the group is killed, and the process
    is reaped, so that it does not stay as a zombie.
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
        self.exit_code: int | None = None  # negative: the number of the signal that ended the process

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        output_folder: Path,
        waiting: WaitingKernel | None = None,
    ) -> Self:
        """Start ``command`` in its own session, with the variables of ``environment``.

        ``waiting`` is a process that was forked in advance. If it is unused and fits the environment, it becomes the
        kernel's process. Otherwise it is ended, and ``command`` is executed. Raises OSError or ValueError if the
        process cannot be started.
        """
        # Unlike a pipe, an unnamed file needs no reader, and it leaves nothing behind.
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

    def on_end(self, callback: Callable[[], None]) -> None:
        self._when_ended = callback

    def signal(self, number: signal.Signals) -> None:
        # The programs that a cell waits for usually belong to the kernel's process group.
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def last_output(self) -> str:
        if not self._output.closed:
            size = self._output.seek(0, os.SEEK_END)
            self._output.seek(max(0, size - LAST_OUTPUT_BYTES))
            self._last_output = self._output.read().decode(errors="replace").strip()
        return self._last_output

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # Before the process is reaped: after that, the id of the process and of its group may be reused.
        self.signal(signal.SIGKILL)
        self.exit_code = self._process.wait()
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
