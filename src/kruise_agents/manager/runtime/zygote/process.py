"""The zygote's process, as the manager has it: started, asked for forks, and found to be gone.

The zygote has imported what every sandbox's program and its first kernel import (``sandbox/zygote``). A sandbox then
costs a fork instead of two starts of Python.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import kruise_agents

from ....protocol.control import FORK, ForkOrder, ForkRequest

_PROGRAM = Path(kruise_agents.__file__).parent / "sandbox" / "zygote" / "__main__.py"
_ENVIRONMENT = {"HOME": "/nonexistent", "PYTHONPATH": str(_PROGRAM.parent / "bare")}
"""Environment in which Python looks into no home for modules, and runs nothing of the host's at its start."""
_START_SECONDS = 30
_ANSWER_SECONDS = 5
"""A fork takes milliseconds. A zygote that takes this long counts as ended."""


class ZygoteError(Exception):
    """A zygote did not start, or it has ended. The text says why."""


class Zygote:
    """A running zygote, which ends with the manager or when it is closed. Its forks go on.

    Args:
        interpreter: An open descriptor of Python's binary, through a mount that nobody can write to: everybody in a
            sandbox can open the file that the sandbox's program runs from.
        namespace: A descriptor of that mount's namespace; owned.
    """

    def __init__(self, interpreter: int, namespace: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A zygote that does not keep up counts as ended, instead of making the manager wait for it.
        ours.setblocking(False)
        self._socket = ours
        self._namespace = namespace
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - as long as it runs
        try:
            self._process = subprocess.Popen(
                [sys.executable, str(_PROGRAM), str(theirs.fileno())],
                executable=f"/proc/self/fd/{interpreter}",
                env=_ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._output,
                pass_fds=[interpreter, theirs.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            os.close(namespace)
            self._output.close()
            raise ZygoteError(str(error)) from error
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        if not select.select([self._socket], [], [], _START_SECONDS)[0]:
            raise ZygoteError(f"not ready within {_START_SECONDS} seconds")
        if not self._socket.recv(1):
            self._process.wait()
            raise ZygoteError(self.last_words())

    def fork(
        self, order: ForkOrder, first_pid: int, group: int | None, own: Sequence[int], handed: Mapping[int, int]
    ) -> None:
        """Fork a process that enters a sandbox and becomes its program. Return when the zygote has forked.

        Raises ZygoteError if the zygote has ended or does not fork; a fork that comes later ends with ``first_pid``.

        Args:
            group: A descriptor of the sandbox's ``cgroup.procs``, open for writing.
            own: Descriptors for the fork itself, see :class:`.protocol.control.ForkRequest`.
            handed: Descriptors for the program, by the numbers that they are to have there.
        """
        request = ForkRequest(order, first_pid, group is not None, list(handed))
        descriptors = [*own, *([] if group is None else [group]), *handed.values()]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                try:
                    socket.send_fds(ours, [request.to_json()], descriptors)
                    socket.send_fds(self._socket, [FORK], [theirs.fileno()])
                except OSError as error:
                    raise ZygoteError(self.last_words() or str(error)) from error
            if not select.select([ours], [], [], _ANSWER_SECONDS)[0]:
                raise ZygoteError(f"it did not fork within {_ANSWER_SECONDS} seconds")
            with contextlib.suppress(ConnectionError):  # the zygote ended before it read the request
                if ours.recv(1):
                    return
            raise ZygoteError(self.last_words())

    def last_words(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        lines = os.pread(self._output.fileno(), size, 0).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"ended with code {self._process.poll()}"

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()
        os.close(self._namespace)
        self._output.close()
