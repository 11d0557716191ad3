"""The start of kernels: command, environment, and the folder for their sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import zmq.asyncio

from ...errors import ConfigurationError
from .environment import python_assignment
from .errors import KernelStartError
from .forked_kernel import FIRST_VARIABLES, WaitingKernel
from .jupyter_messages import Endpoint, free_ports
from .kernels import Kernel
from .languages import CONNECTION_FILE, KernelSpec
from .process import KernelProcess

PROGRAM = Path(__file__).parent / "kernel" / "__main__.py"
SOCKET_NAME_BYTES = 107  # the longest path that Linux allows for a socket


@dataclass(frozen=True, slots=True)
class KernelLauncher:
    """A launcher of kernels whose files and sockets lie in one folder."""

    python: Path
    folder: Path
    context: zmq.asyncio.Context
    waiting: WaitingKernel | None = None  # the fork for the first Python kernel
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def spec(self) -> KernelSpec:
        command = (str(self.python), str(PROGRAM), "-f", CONNECTION_FILE, "--parent", str(os.getpid()))
        # By default, IPython's profile would lie among the user's files.
        variables = {"IPYTHONDIR": str(self._profile_folder)}
        return KernelSpec(command, variables, output_blocks=True, assignment=python_assignment)

    @property
    def _profile_folder(self) -> Path:
        return self.folder / "ipython"

    def prepare(self) -> None:
        """Create the folder. Raise ConfigurationError if its path is too long for sockets in it."""
        longest = len(os.fsencode(self.folder)) + len("/k999999-5")
        if longest > SOCKET_NAME_BYTES:
            raise ConfigurationError(
                f"kernel folder {self.folder} is too long: the names of sockets in it would have {longest} bytes, "
                f"and Linux allows {SOCKET_NAME_BYTES}; use a shorter folder"
            )
        self._make_folders()

    async def start(self, spec: KernelSpec, environment: Mapping[str, str], cwd: Path) -> Kernel:
        """Return a new kernel that has run ``spec.preparation``. Raise KernelError if it cannot start or ends early."""
        number = next(self._numbers)
        endpoint = Endpoint(self.folder / f"k{number}")
        if number == 1 and spec == self.spec:
            # The other variables are set by a request, before the first code, whether or not this kernel is forked.
            environment = {name: value for name, value in environment.items() if name in FIRST_VARIABLES}
        command = [part.replace(CONNECTION_FILE, str(endpoint.connection_file)) for part in spec.command]
        try:
            if spec.transport == "tcp":
                endpoint = replace(endpoint, ports=free_ports())
            self._make_folders()  # code in the sandbox may have emptied /tmp
            endpoint.write_connection_file()
            waiting = self.waiting if spec == self.spec else None
            process = KernelProcess.start(command, {**spec.variables, **environment}, cwd, self.folder, waiting)
        except (OSError, ValueError) as error:
            endpoint.remove_files()
            raise KernelStartError(f"the kernel cannot be started: {error}") from error
        kernel = Kernel(process, endpoint, self.context, spec, environment)
        try:
            await kernel.wait_until_ready()
            if spec.preparation:
                await kernel.execute_silently(spec.preparation)
        except asyncio.CancelledError:
            await kernel.shutdown()
            raise
        return kernel

    def _make_folders(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._profile_folder.mkdir(mode=0o700, exist_ok=True)
