"""The parameters for starting a sandbox's program, and the started program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import IO

from ...protocol.control import ProgramDescriptors
from .files.layout import Layout
from .limits.limits import Limits


@dataclass(frozen=True, slots=True)
class Launch:
    """The parameters for starting the program of a sandbox."""

    layout: Layout
    descriptors: ProgramDescriptors  # inherited under the same numbers
    output: IO[bytes]  # standard output and error
    limits: Limits
    fresh: bool = False  # True: the file tree is as Runtime.prepare() has made it


@dataclass(frozen=True, slots=True)
class Launched:
    """The started program of a sandbox."""

    process: subprocess.Popen[bytes]  # the manager's child
    # The pid of the first process in the namespaces. When that process ends, the kernel ends all others in them.
    first_pid: int | None  # None: there are no namespaces, or bwrap failed
