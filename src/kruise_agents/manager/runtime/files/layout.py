"""Where the parts of one sandbox lie on the host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

USERNAME = "user"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of the host at a place in the sandbox, which can change what is in it."""

    source: Path
    target: str
    """Absolute, without links on the way."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one sandbox on the host."""

    root: Path
    mounts: tuple[Mount, ...] = ()
    system: Path | None = None
    """A root file system whose system folders it has; None: those of the machine."""

    @property
    def rootfs(self) -> Path:
        """Everything that the sandbox can change; becomes ``/`` where the runtime can do that."""
        return self.root / "rootfs"

    @property
    def home(self) -> Path:
        """The user's home."""
        return self.rootfs / "home" / USERNAME

    @property
    def tmp(self) -> Path:
        """``/tmp``; on disk, as in E2B's sandboxes."""
        return self.rootfs / "tmp"

    @property
    def sockets(self) -> Path:
        """Holds the Unix sockets; never visible inside the sandbox."""
        return self.root / "sockets"

    @property
    def log(self) -> Path:
        """Output of the sandbox's program itself, for finding out why it did not start."""
        return self.root / "log"

    def make_outer(self) -> None:
        """Create the folders around the file tree; nobody but this user gets past the outermost one."""
        self.root.mkdir(mode=0o700)
        self.sockets.mkdir(mode=0o700)

    def make(self) -> None:
        """Create all folders."""
        self.make_outer()
        for folder in (self.rootfs, self.home.parent, self.home, self.tmp):
            folder.mkdir()
            folder.chmod(0o755)
        self.tmp.chmod(0o1777)
