"""The facts that all parts of one sandbox's program share: user, home, limits, and the manager's settings."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_NOTICES = 100


@dataclass(slots=True)
class SandboxState:
    """The facts of this sandbox. The program's command line sets the first group.

    The manager sets ``access_token`` and ``variables`` when it hands the sandbox to somebody, and may set them again.
    """

    username: str  # the default user, whom programs run as where no other is named
    home: Path  # of the default user, absolute; relative paths and ~ lead below it
    path: str  # PATH of every program
    python: Path  # the interpreter for kernels and for python on PATH
    several_users: bool = False  # this program is root among several users; if not, everything runs as its own user
    memory: int | None = None  # bytes for all programs together; None: as much as the machine has
    disk: int | None = None  # bytes for all files; None: as much as the machine has
    own_folders: Sequence[Path] = ()  # the folders to be measured, none within another; empty: home alone

    access_token: str | None = None  # what X-Access-Token must equal; None: envd asks for none
    variables: Mapping[str, str] = field(default_factory=dict)  # those of the create call, then the internal ones
    _killed: dict[int, str] = field(default_factory=dict)

    def note_kill(self, pid: int, reason: str) -> None:
        self._killed[pid] = reason
        for old in list(self._killed)[:-_NOTICES]:
            del self._killed[old]

    def take_kill_reason(self, pid: int) -> str | None:
        """Return why the manager killed a process, and forget the reason; None if the manager did not kill it."""
        return self._killed.pop(pid, None)

    def environment(self, username: str | None = None, home: Path | None = None) -> dict[str, str]:
        """Return the environment of a program started here, before the variables of a single call.

        Without a ``username`` the program runs as this program's own user, as kernels do. ``home`` is the user's home.
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
