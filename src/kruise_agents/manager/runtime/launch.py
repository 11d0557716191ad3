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
    """A sandbox's program that is to be started."""

    layout: Layout
    descriptors: ProgramDescriptors  # inherited under the same numbers
    output: IO[bytes]  # standard output and error
    limits: Limits
    fresh: bool = False  # whether the files are those that every new sandbox begins with


@dataclass(frozen=True, slots=True)
class Launched:
    """A started program."""

    process: subprocess.Popen[bytes]
    first_pid: int | None
    """First process inside the namespaces, with which all others end. None: ``process`` itself, or a failed start."""
