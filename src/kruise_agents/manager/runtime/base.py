"""What every runtime is asked: can you work here, start this sandbox's program, remove what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import IO

from .files.identities import USER_ID, FileOwners
from .files.layout import Layout
from .files.trees import copy_command, remove_tree, run_copy, tree_size
from .launch import Launch, Launched
from .limits.limits import Enforcer
from .pause.signals import continue_tree, stop_tree, stopped_in
from .rootfs.python import fill_home


class Runtime(ABC):
    """One way to run sandboxes."""

    name: str
    summary: str
    """What it holds back, in one line, for the start of the manager."""
    end_signal: signal.Signals
    """What ends every process of a sandbox, sent to its first one."""
    pauses_by = "stopping each of their processes (SIGSTOP)"
    """How sandboxes are paused, in a few words."""
    one_user_because: str | None = None
    """Why its sandboxes have one user instead of ``root``, ``user`` and others; None where they have several."""
    enforcer: Enforcer
    """What holds sandboxes to their limits; known after :meth:`check`."""

    own_network: bool = False
    """Whether each sandbox has a network of its own, which has to be connected to the outside."""

    takes_rootfs = False
    """Whether sandboxes can have other system folders than those of the machine."""

    mounts_volumes = False
    """Whether sandboxes can have folders of the host at places of their own."""

    @property
    def file_owners(self) -> FileOwners | None:
        """Whose the files of sandboxes are on the host; None where the manager itself cannot reach them all."""
        return FileOwners()

    @abstractmethod
    def check(self) -> None:
        """Find out whether and how this runtime works on this machine. Called once, before anything else.

        Raises:
            RuntimeUnavailableError: it does not; the message names the cause and the ways on.
        """

    def open(self) -> None:  # noqa: B027 - most need nothing
        """Make ready for many launches, once, after :meth:`check`; may take a second. May be left out."""

    def close(self) -> None:  # noqa: B027
        """Undo :meth:`open`; sandboxes go on."""

    def prepare(self, layout: Layout) -> None:
        """Make the folders of a new sandbox, with everything that it has from the start."""
        layout.make()
        fill_home(layout.home)

    def try_rootfs(self, folder: Path) -> None:
        """Find out whether sandboxes can have the system folders of a root file system, and the manager's Python.

        Raises:
            OSError: they cannot; the text says why, and what to do.
        """
        raise OSError(f"the runtime {self.name!r} cannot do that")

    def add_rootfs(self, layout: Layout, rootfs: Path) -> list[Path]:
        """Let a prepared file tree be one above the system folders of ``rootfs``, with copies of its other folders.

        Returns:
            What this user may not read and is left out.

        Raises:
            OSError: it does not work.
        """
        raise OSError(f"the runtime {self.name!r} cannot do that")

    @abstractmethod
    def launch(self, what: Launch) -> Launched:
        """Start the program of a sandbox, whose folders are prepared.

        Raises:
            OSError: it could not be started; nothing is left running.
        """

    def disk_usage(self, folder: Path) -> int:
        """Bytes that a sandbox's folder takes on the disk."""
        return tree_size(folder)

    async def copy(self, source: Path, target: Path) -> None:
        """Copy a folder with all that sandboxes put into it, as it is, to a place where nothing is yet.

        Raises:
            OSError: it failed; a part of it may be there.
        """

        def start(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

        await run_copy(start, copy_command(source, target))

    def stopped_processes(self, first_pid: int) -> tuple[int, ...]:
        """The processes of a running sandbox that are stopped already, where :meth:`thaw` has to know."""
        return stopped_in(first_pid, spare_root=self._spares_first)

    async def freeze(self, first_pid: int) -> None:
        """Stop every process of a sandbox; their memory and connections stay.

        Raises:
            OSError: they did not stop; they go on.
        """
        stop_tree(first_pid, spare_root=self._spares_first)

    def thaw(self, first_pid: int, stopped: Collection[int]) -> None:
        """Let a frozen sandbox go on, except ``stopped``. One that is not frozen notices nothing."""
        continue_tree(first_pid, stopped)

    def cleanup(self, layout: Layout) -> None:  # noqa: B027 - most have nothing to do
        """Told when every process of a sandbox has ended."""

    @property
    def _spares_first(self) -> bool:
        """A first process that ends the others itself has to run for that."""
        return self.end_signal is not signal.SIGKILL

    def give_to_user(self, folder: Path) -> None:
        """Let a folder of the manager's own, which is empty, belong to the default user of sandboxes.

        Raises:
            OSError: it cannot.
        """
        owners = self.file_owners
        if owners is not None and owners.several:
            os.chown(folder, *owners.outside(USER_ID, USER_ID))

    def remove(self, folder: Path) -> bool:
        """Remove a folder with everything that sandboxes left in it.

        Returns:
            Whether it is gone; if not, the log says why.
        """
        return remove_tree(folder)
