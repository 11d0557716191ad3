"""The places of a sandbox's files on the host."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

USERNAME = "user"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def folder_name(sandbox_id: str) -> str:
    """Return the name of a sandbox's folder and control group, from which nobody can tell the ID.

    Linux shows paths of mounts and names of control groups to every user of the machine, and an ID opens the ports of
    a sandbox.
    """
    # IDs have more than a hundred random bits, so that a digest without a key tells nothing.
    return hashlib.sha256(sandbox_id.encode()).hexdigest()[:24]


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
    sandbox_id: str = ""  # for the log; empty for a tree that is no sandbox's

    @classmethod
    def of(cls, sandboxes: Path, sandbox_id: str, mounts: tuple[Mount, ...] = (), system: Path | None = None) -> Layout:
        """Return the layout of a sandbox whose folder is in the folder ``sandboxes``."""
        return cls(sandboxes / folder_name(sandbox_id), mounts, system, sandbox_id)

    @property
    def label(self) -> str:
        """The name of the sandbox in the log."""
        return self.sandbox_id or self.root.name

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
        """Make ``root`` and in it ``sockets`` and an empty ``rootfs``, all only for the manager's user and root."""
        for folder in (self.root, self.sockets, self.rootfs):
            folder.mkdir(mode=0o700)

    def make_inner(self) -> None:
        for folder in (self.rootfs, self.home.parent, self.home, self.tmp):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        self.tmp.chmod(0o1777)
