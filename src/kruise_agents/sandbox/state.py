"""What the parts of one sandbox share: who the user is, where home is, and what the manager set."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_NOTICES = 100


@dataclass(slots=True)
class SandboxState:
    """The facts of this sandbox.

    The first group is fixed when the program starts. The second is set by the manager when the sandbox is
    handed to somebody (it may have waited in a pool before that) and may be set again.
    """

    username: str
    """The user that programs run as where nothing else is asked for (``user``)."""
    home: Path
    """That user's home, an absolute path; relative paths and ``~`` lead below it."""
    path: str
    """``PATH`` of every program."""
    python: Path
    """The interpreter for kernels and for ``python`` on ``PATH``."""
    several_users: bool = False
    """Whether this program is root among users of its own. If not, everything runs as the one user that it is."""
    memory: int | None = None
    """Bytes that all programs together may have; None: as much as the machine has."""
    disk: int | None = None
    """Bytes of files that it may have; None: as much as the machine has."""
    own_folders: Sequence[Path] = ()
    """What holds its own files, to be measured, none within another; empty: home alone."""

    access_token: str | None = None
    """What ``X-Access-Token`` must equal; None means that nobody is asked."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The sandbox's environment variables: those of the create call, then the internal ones."""
    _killed: dict[int, str] = field(default_factory=dict)

    def killing(self, pid: int, why: str) -> None:
        """The manager is about to kill a process. Only the last of such notices are kept."""
        self._killed[pid] = why
        for old in list(self._killed)[:-_NOTICES]:
            del self._killed[old]

    def why_killed(self, pid: int) -> str | None:
        """Why the manager killed a process, asked once; None: it did not."""
        return self._killed.pop(pid, None)

    def environment(self, username: str | None = None, home: Path | None = None) -> dict[str, str]:
        """The whole environment of a program started here, before the variables of a single call.

        Parameters:
            username: whom it runs as; None: as this program itself, which is what kernels do.
            home: that user's.
        """
        if username is None:
            own = pwd.getpwuid(os.getuid()) if self.several_users else None
            username, home = (own.pw_name, Path(own.pw_dir)) if own else (self.username, self.home)
        return {
            "PATH": self.path,
            "HOME": str(home),
            "USER": username,
            "LOGNAME": username,
            **self.variables,
        }
