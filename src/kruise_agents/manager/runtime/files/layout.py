"""The places of a sandbox's files on the host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

USERNAME = "user"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Mount:
    """A host folder, mounted in a sandbox at the absolute path ``target``. No part of the path may be a link."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of a sandbox on the host, below ``root``, and its mounts."""

    root: Path
    mounts: tuple[Mount, ...] = ()
    system: Path | None = None  # the root file system whose system folders the sandbox sees; None: the machine's

    @property
    def rootfs(self) -> Path:
        """The folder of the sandbox's own files. Under bubblewrap, the sandbox sees this folder as ``/``."""
        return self.root / "rootfs"

    @property
    def home(self) -> Path:
        return self.rootfs / "home" / USERNAME

    @property
    def tmp(self) -> Path:
        return self.rootfs / "tmp"  # on the disk, as in E2B's sandboxes

    @property
    def sockets(self) -> Path:
        """The folder of the Unix sockets, which a sandbox under bubblewrap cannot see."""
        return self.root / "sockets"

    @property
    def log(self) -> Path:
        """The file with the output of the sandbox's program and of ``bwrap``, which starts the program."""
        return self.root / "log"

    def make_outer(self) -> None:
        """Make ``root`` and ``sockets``, which only the manager's user and the host's root can enter."""
        self.root.mkdir(mode=0o700)
        self.sockets.mkdir(mode=0o700)

    def make(self) -> None:
        self.make_outer()
        for folder in (self.rootfs, self.home.parent, self.home, self.tmp):
            folder.mkdir()
            folder.chmod(0o755)
        self.tmp.chmod(0o1777)
