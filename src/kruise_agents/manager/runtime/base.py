"""The interface of a runtime: check the machine, start a sandbox's program, pause it, copy and remove its files."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import IO

from ...protocol.names import USER_ID
from .files.identities import FileOwners
from .files.layout import Layout
from .files.trees import copy_command, remove_tree, run_copy, tree_size
from .launch import Launch, Launched
from .limits.limits import Enforcer
from .pause.signals import continue_tree, stop_tree, stopped_in
from .rootfs.python import fill_home


class Runtime(ABC):
    """A way to run sandboxes."""

    name: str
    summary: str  # the isolation in one line, printed when the manager starts
    end_signal: signal.Signals  # sent to the first process of a sandbox, ends all its processes
    enforcer: Enforcer  # set by check()
    pauses_by = "stopping each of their processes (SIGSTOP)"
    one_user_because: str | None = None  # None: sandboxes have several users
    own_network = False  # whether each sandbox has its own network, which has to be connected to the outside
    takes_rootfs = False  # whether sandboxes can have other system folders than those of the machine
    mounts_volumes = False  # whether host folders can be mounted at any place in a sandbox

    @property
    def file_owners(self) -> FileOwners | None:
        """The owners of sandbox files on the host, or None if the manager itself cannot reach all the files."""
        return FileOwners()

    @abstractmethod
    def check(self) -> None:
        """Find out how this runtime works here, before anything else; raise RuntimeUnavailableError if it cannot."""

    def open(self) -> None:  # noqa: B027 - most runtimes need nothing
        """Prepare for many launches. Optional; called once after :meth:`check`, may take a second."""

    def close(self) -> None:  # noqa: B027 - most runtimes need nothing
        """Undo :meth:`open`. Running sandboxes continue."""

    def prepare(self, layout: Layout) -> None:
        """Make the folders of a new sandbox with their initial files."""
        layout.make()
        fill_home(layout.home)

    def try_rootfs(self, folder: Path) -> None:
        """Test the system folders of a root file system with the manager's Python. A failure raises an OSError."""
        raise OSError(f"the runtime {self.name!r} cannot do that")

    def add_rootfs(self, layout: Layout, rootfs: Path) -> list[Path]:
        """Fit a file tree to the system folders of ``rootfs``, and copy its others. Return the unreadable paths."""
        raise OSError(f"the runtime {self.name!r} cannot do that")

    @abstractmethod
    def launch(self, launch: Launch) -> Launched:
        """Start the program of a sandbox whose folders are prepared. After an OSError, nothing is left running."""

    def disk_usage(self, folder: Path) -> int:
        return tree_size(folder)

    async def copy(self, source: Path, target: Path) -> None:
        """Copy a folder with owners, modes and links. ``target`` must not exist; an OSError may leave a part of it."""

        def start(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

        await run_copy(start, copy_command(source, target))

    def stopped_processes(self, first_pid: int) -> tuple[int, ...]:
        """Return the stopped processes of a running sandbox, which :meth:`thaw` has to leave stopped."""
        return stopped_in(first_pid, spare_root=self._spares_first)

    async def freeze(self, first_pid: int) -> None:
        """Stop every process of a sandbox; memory and connections stay. After an OSError, all continue."""
        stop_tree(first_pid, spare_root=self._spares_first)

    def thaw(self, first_pid: int, stopped: Collection[int]) -> None:
        """Continue a sandbox, except the processes ``stopped``. Has no effect on a sandbox that is not frozen."""
        continue_tree(first_pid, stopped)

    def cleanup(self, layout: Layout) -> None:  # noqa: B027 - most runtimes have nothing to do
        """Release the resources of a sandbox after all its processes have ended."""

    @property
    def _spares_first(self) -> bool:
        # A first process that ends the others itself must be running to do that.
        return self.end_signal is not signal.SIGKILL

    def give_to_user(self, folder: Path) -> None:
        """Make the default user of sandboxes the owner of an empty folder of the manager."""
        owners = self.file_owners
        if owners is not None and owners.several:
            os.chown(folder, *owners.outside(USER_ID, USER_ID))

    def remove(self, folder: Path) -> bool:
        """Remove a folder with everything that sandboxes left in it. On failure, log why and return False."""
        return remove_tree(folder)
