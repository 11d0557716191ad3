"""A sandbox's program: how to start it, and the started program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import IO

from ...protocol.control import ProgramDescriptors
from .files.layout import Layout
from .limits.limits import Limits


@dataclass(frozen=True, slots=True)
class Launch:
    """A sandbox's program that is to be started.

    Args:
        descriptors: file descriptors that the program inherits under the same numbers.
        output: standard output and error of the program.
        fresh: whether the sandbox's files are those that every new sandbox begins with.
    """

    layout: Layout
    descriptors: ProgramDescriptors
    output: IO[bytes]
    limits: Limits
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Launched:
    """A started program.

    Args:
        first_pid: the first process inside the namespaces; all others end with it. None: ``process`` has this role,
            or the runtime failed before it made the first process.
    """

    process: subprocess.Popen[bytes]
    first_pid: int | None
