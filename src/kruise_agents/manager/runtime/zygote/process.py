"""The manager's side of the zygote: start the process, ask it for forks, and notice its end.

The zygote (``sandbox/zygote``) has imported the modules of a sandbox's program and of its first Jupyter kernel. So a
sandbox costs forks instead of two starts of Python.
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
"""The zygote's environment, which hides modules in a home folder and the host's ``sitecustomize`` from Python."""
_START_SECONDS = 30
_ANSWER_SECONDS = 5
"""Seconds to wait for a fork, which usually takes milliseconds. A zygote that takes longer counts as broken."""


class ZygoteError(Exception):
    """A zygote did not start, does not fork as it should, or has ended. The text says why."""


class Zygote:
    """A running zygote, which ends with the manager or at :meth:`close`. Programs that the zygote has forked go on.

    Args:
        interpreter: A descriptor of Python's binary, opened through a mount that nobody can write to, because code in
            a sandbox may open the same file through ``/proc``.
        namespace: A descriptor of the mount namespace with that mount. This object closes the descriptor.
    """

    def __init__(self, interpreter: int, namespace: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # If the zygote does not read, sending fails at once, so that the manager does not wait for the zygote.
        ours.setblocking(False)
        self._socket = ours
        self._namespace = namespace
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the zygote
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
        """Make the zygote fork a process that enters a sandbox and follows ``order`` there. Return after the fork.

        Raises ZygoteError if the zygote has ended or does not fork in time. The caller must then end ``first_pid``. A
        process that the zygote forks too late ends by itself, within seconds of the fork.

        Args:
            first_pid: The pid of the sandbox's first process.
            group: A descriptor of the sandbox's ``cgroup.procs``, open for writing; None if there is no such group.
            own: Descriptors for the fork itself, see :class:`.protocol.control.ForkRequest`.
            handed: Descriptors for the program. The keys are the numbers that the descriptors get in the program.
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
