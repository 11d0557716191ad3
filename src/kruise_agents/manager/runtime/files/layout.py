"""The folders of a sandbox on the host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

USERNAME = "user"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Mount:
    """A host folder that a sandbox can write to; ``target`` is its absolute path there, without links."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of a sandbox on the host."""

    root: Path
    mounts: tuple[Mount, ...] = ()
    system: Path | None = None  # the root file system with its system folders; None: the machine's

    @property
    def rootfs(self) -> Path:
        """The files that the sandbox can change; ``/`` under bubblewrap."""
        return self.root / "rootfs"

    @property
    def home(self) -> Path:
        return self.rootfs / "home" / USERNAME

    @property
    def tmp(self) -> Path:
        return self.rootfs / "tmp"  # on the disk, as in E2B's sandboxes

    @property
    def sockets(self) -> Path:
        """The folder of the Unix sockets; never visible inside the sandbox."""
        return self.root / "sockets"

    @property
    def log(self) -> Path:
        """The output of the sandbox's program, which says why it did not start."""
        return self.root / "log"

    def make_outer(self) -> None:
        """Create the folders around the file tree; other users of the host cannot enter the outermost folder."""
        self.root.mkdir(mode=0o700)
        self.sockets.mkdir(mode=0o700)

    def make(self) -> None:
        self.make_outer()
        for folder in (self.rootfs, self.home.parent, self.home, self.tmp):
            folder.mkdir()
            folder.chmod(0o755)
        self.tmp.chmod(0o1777)
