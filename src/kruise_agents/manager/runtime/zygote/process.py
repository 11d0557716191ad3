"""The manager's side of the zygote: start the process, ask it for forks, and notice its end.

The zygote (``sandbox/zygote``) has imported the modules of a sandbox's program and of its first Jupyter kernel. So a
sandbox costs forks instead of two starts of Python. Without a zygote, :func:`enter_once` starts a process that enters
one sandbox, as a fork does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import kruise_agents

from ....protocol.control import FORK, ForkRequest
from ..handle import is_readable
from ..limits.limits import end_before_others

_PROGRAM = Path(kruise_agents.__file__).parent / "sandbox" / "zygote" / "__main__.py"
_ONCE = _PROGRAM.with_name("once.py")
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
        end_before_others(self._process.pid)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        if not is_readable(self._socket.fileno(), _START_SECONDS):
            raise ZygoteError(f"not ready within {_START_SECONDS} seconds")
        if not self._socket.recv(1):
            self._process.wait()
            raise ZygoteError(self.last_words())

    def fork(self, request: ForkRequest, descriptors: Sequence[int], _output: int) -> None:
        """Make the zygote fork a process that carries out ``request``. Return after the fork.

        Raises ZygoteError if the zygote has ended or does not fork in time. The caller must then end the sandbox. A
        process that the zygote forks too late ends by itself, within seconds of the fork.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                try:
                    socket.send_fds(ours, [request.to_json()], descriptors)
                    socket.send_fds(self._socket, [FORK], [theirs.fileno()])
                except OSError as error:
                    raise ZygoteError(self.last_words() or str(error)) from error
            if not is_readable(ours.fileno(), _ANSWER_SECONDS):
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


def enter_once(request: ForkRequest, descriptors: Sequence[int], output: int) -> None:
    """Start a process that carries out one ``request`` to execute a command. Return before the process has begun."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        socket.send_fds(ours, [request.to_json()], descriptors)
        process = subprocess.Popen(
            # With -I and -S, Python runs no code that the environment or packages bring.
            [sys.executable, "-I", "-S", str(_ONCE), str(theirs.fileno())],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    end_before_others(process.pid)
    # The process ends when its grandchild is in the sandbox. Until then, only a thread can wait for it.
    threading.Thread(target=process.wait, name="reaper", daemon=True).start()
