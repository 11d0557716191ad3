"""What every runtime is asked: can you work here, and how is this sandbox's program started."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

USERNAME = "user"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one sandbox on the host."""

    root: Path

    @property
    def home(self) -> Path:
        """Becomes the user's home."""
        return self.root / "home"

    @property
    def tmp(self) -> Path:
        """Becomes ``/tmp``; on disk, as in E2B's sandboxes."""
        return self.root / "tmp"

    @property
    def sockets(self) -> Path:
        """Holds the Unix sockets; never visible inside the sandbox."""
        return self.root / "sockets"

    @property
    def log(self) -> Path:
        """Output of the sandbox's program itself, for finding out why it did not start."""
        return self.root / "log"

    def make(self) -> None:
        """Create the folders, readable by this user only."""
        self.root.mkdir(mode=0o700)
        for folder in (self.home, self.tmp, self.sockets):
            folder.mkdir(mode=0o700)
        self.home.chmod(0o755)
        self.tmp.chmod(0o1777)


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """How to start the program of one sandbox."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    descriptors: Sequence[int] = ()
    """What the process must inherit; the caller closes its own copies after the start."""
    reports_child: bool = False
    """Whether the runtime writes to ``info_fd`` which process ends everything when it ends."""


class Runtime(ABC):
    """One way to run sandboxes."""

    name: str
    summary: str
    """What it holds back, in one line, for the start of the manager."""

    @abstractmethod
    def check(self) -> None:
        """Find out whether this runtime works on this machine.

        Raises:
            RuntimeUnavailableError: it does not; the message names the cause and the ways on.
        """

    @abstractmethod
    def plan(self, layout: Layout, info_fd: int) -> LaunchPlan:
        """How to start the program of the sandbox in ``layout``.

        The socket options of the program (``--envd-fd`` and the like) are appended to ``argv`` by the caller.

        Parameters:
            layout: the sandbox's folders; they exist.
            info_fd: an inheritable pipe end to which the runtime may write ``{"child-pid": ...}``.
        """
