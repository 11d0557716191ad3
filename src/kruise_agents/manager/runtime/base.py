"""What every runtime is asked: can you work here, start this sandbox's program, remove what it leaves."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .folders import remove_tree, tree_size
from .layout import Layout
from .limits import Enforcer, Limits
from .program import fill_home


@dataclass(frozen=True, slots=True)
class Launched:
    """A started program."""

    process: subprocess.Popen[bytes]
    first_pid: int | None
    """The first process inside the namespaces, which ends all when it ends. None: ``process`` itself does, or the
    runtime failed before it made one."""


class Runtime(ABC):
    """One way to run sandboxes."""

    name: str
    summary: str
    """What it holds back, in one line, for the start of the manager."""
    one_user_because: str | None = None
    """Why its sandboxes have one user instead of ``root``, ``user`` and others; None where they have several."""
    enforcer: Enforcer
    """What holds sandboxes to their limits; known after :meth:`check`."""

    own_network: bool = False
    """Whether each sandbox has a network of its own, which has to be connected to the outside."""

    @abstractmethod
    def check(self) -> None:
        """Find out whether and how this runtime works on this machine. Called once, before anything else.

        Raises:
            RuntimeUnavailableError: it does not; the message names the cause and the ways on.
        """

    def prepare(self, layout: Layout) -> None:
        """Make the folders of a new sandbox, with everything that it has from the start."""
        layout.make()
        fill_home(layout.home)

    @abstractmethod
    def launch(
        self, layout: Layout, arguments: Sequence[str], descriptors: Sequence[int], output: IO[bytes], limits: Limits
    ) -> Launched:
        """Start the program of the sandbox in ``layout``.

        Parameters:
            layout: the sandbox's folders, prepared.
            arguments: of the program, beside those that the runtime adds.
            descriptors: what it inherits, by the same numbers.
            output: where its standard output and error go.
            limits: what it may take of the machine.

        Raises:
            OSError: it could not be started; nothing is left running.
        """

    def disk_usage(self, folder: Path) -> int:
        """Bytes that a sandbox's folder takes on the disk."""
        return tree_size(folder)

    def remove(self, folder: Path) -> bool:
        """Remove a folder with everything that sandboxes left in it.

        Returns:
            Whether it is gone; if not, the log says why.
        """
        return remove_tree(folder)
