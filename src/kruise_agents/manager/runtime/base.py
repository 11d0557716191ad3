"""The interface of a runtime, which starts and pauses sandboxes, and copies and removes their files."""

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
from .limits.limits import DiskEnforcer, Enforcer, Limits
from .pause.signals import continue_tree, stop_tree, stopped_in
from .rootfs.python import fill_home


class Runtime(ABC):
    """A way to run sandboxes on this machine."""

    name: str
    summary: str  # the isolation in one line, printed when the manager starts
    end_signal: signal.Signals  # sent to the first process of a sandbox to end the whole sandbox
    enforcer: Enforcer  # set by check() at the latest
    disk: DiskEnforcer  # the same
    pauses_by = "stopping each of their processes (SIGSTOP)"
    one_user_because: str | None = None  # why sandboxes have only one user; None: they have several
    own_network = False  # True: each sandbox has its own network, which Egress.attach() connects to the outside
    takes_rootfs = False  # True: a sandbox can have the system folders of another root file system
    mounts_volumes = False  # True: volumes can be mounted in a sandbox

    @property
    def file_owners(self) -> FileOwners | None:
        """The owners of sandbox files on the host; None if the manager lacks permission for some of the files."""
        return FileOwners()

    @abstractmethod
    def check(self) -> None:
        """Check that this machine permits what the runtime needs. Raises RuntimeUnavailableError if it does not."""

    def open(self) -> None:  # noqa: B027 - the process runtime needs nothing
        """Make later launches faster, if the runtime can. This call is optional, and may block for seconds."""

    def close(self) -> None:  # noqa: B027 - the process runtime needs nothing
        """Undo :meth:`open` if it was called. Running sandboxes continue."""

    def make_folders(self, layout: Layout, limits: Limits) -> None:
        """Make the folders of a new sandbox, without files. Raises OSError if the folders exist already."""
        layout.make_outer()
        self.disk.limit(layout.rootfs, limits)

    def prepare(self, layout: Layout) -> None:
        """Put the first files into the folders of a new sandbox."""
        layout.make_inner()
        fill_home(layout.home)

    def try_rootfs(self, folder: Path) -> None:
        """Test whether sandboxes can use a root file system. Raises OSError with the reason if they cannot."""
        raise OSError(f"the runtime {self.name!r} cannot do that")

    def add_rootfs(self, layout: Layout, rootfs: Path) -> list[Path]:
        """Copy to ``layout`` those files of ``rootfs`` that sandboxes may change, and add a virtual environment there.

        Return the paths that were not copied because the manager's user may not read them.
        """
        raise OSError(f"the runtime {self.name!r} cannot do that")

    def reserves(self, path: str, rootfs: Path | None) -> bool:
        """Return True if a sandbox needs an absolute path for itself, so that nothing else can be mounted there.

        ``rootfs`` is the sandbox's root file system, None for the machine's.
        """
        return False

    def refresh(self, layout: Layout) -> None:  # noqa: B027 - the process runtime does that at a launch only
        """Bring what a sandbox shares with the manager's environment up to date, even while the sandbox runs."""

    @abstractmethod
    def launch(self, launch: Launch) -> Launched:
        """Start the program of a sandbox whose folders exist. After an OSError, nothing is left running."""

    def disk_usage(self, folder: Path) -> int:
        return tree_size(folder)

    async def copy(self, source: Path, target: Path) -> None:
        """Copy a folder to a new or empty one, with owners, modes and links. An OSError may leave half a copy."""

        def start(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
            target.mkdir(exist_ok=True)
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

        await run_copy(start, copy_command(source, target))

    def stopped_processes(self, first_pid: int) -> tuple[int, ...]:
        """Return the pids of processes that :meth:`thaw` must leave stopped. Call this method before :meth:`freeze`."""
        return stopped_in(first_pid, spare_root=self._spares_first)

    async def freeze(self, first_pid: int) -> None:
        """Stop the processes of a sandbox, which keep their memory and connections.

        If ``end_signal`` is not SIGKILL, the first process is not stopped, because it ends the others when it receives
        ``end_signal``. If this method raises OSError, all processes that it has stopped run again.
        """
        stop_tree(first_pid, spare_root=self._spares_first)

    def thaw(self, first_pid: int, stopped: Collection[int]) -> None:
        """Continue the processes of a sandbox, except the pids ``stopped``. May be called even if nothing is frozen."""
        continue_tree(first_pid, stopped)

    def cleanup(self, layout: Layout) -> None:  # noqa: B027 - the process runtime has nothing to do
        """Release the resources of a sandbox after all its processes have ended."""

    @property
    def _spares_first(self) -> bool:
        # A first process that has to end the others could not do so while it is stopped.
        return self.end_signal is not signal.SIGKILL

    def give_to_user(self, folder: Path) -> None:
        """Give an empty folder, which the manager's user owns, to the default user of sandboxes."""
        owners = self.file_owners
        if owners is not None and owners.several:
            os.chown(folder, *owners.outside(USER_ID, USER_ID))

    def remove(self, folder: Path) -> bool:
        """Remove a folder with everything that sandboxes left in it. If that fails, log the reason and return False."""
        return remove_tree(folder)

    def move(self, folder: Path, target: Path) -> None:
        """Move a folder within its file system, with all that sandboxes left in it. Raises OSError on failure."""
        folder.rename(target)

    def remove_sandbox(self, folder: Path) -> bool:
        """Remove the folder of a sandbox, like :meth:`remove`."""
        self.disk.release(Layout(folder).rootfs)
        return self.remove(folder)
