"""A sandbox's program: what is to be started, and what came of it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from .files.layout import Layout
from .limits.limits import Limits


@dataclass(frozen=True, slots=True)
class Launch:
    """A sandbox's program that is to be started.

    Parameters:
        layout: the sandbox's folders.
        arguments: of the program, beside those that the runtime adds.
        descriptors: what it inherits, by the same numbers.
        output: where its standard output and error go.
        limits: what it may take of the machine.
        fresh: whether its files are those that every sandbox begins with.
    """

    layout: Layout
    arguments: Sequence[str]
    descriptors: Sequence[int]
    output: IO[bytes]
    limits: Limits
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Launched:
    """A started program."""

    process: subprocess.Popen[bytes]
    first_pid: int | None
    """The first process inside the namespaces, which ends all when it ends. None: ``process`` itself does, or the
    runtime failed before it made one."""
