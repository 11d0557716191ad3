"""The facts that all parts of one sandbox's program share: user, home, limits, and the manager's settings."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_NOTICES = 100


@dataclass(slots=True)
class SandboxState:
    """The facts of this sandbox. The fields before ``access_token`` are set when the program starts.

    The control request ``PREPARE`` sets ``variables``, and ``INIT`` sets ``access_token`` and replaces ``variables``.
    """

    username: str  # the default user: programs run as this user unless a request names another
    home: Path  # absolute home of the default user
    path: str  # PATH of every program
    python: Path  # the interpreter of Python and Bash kernels
    several_users: bool = False  # True: this program is root and can start programs as any user; False: only as itself
    memory: int | None = None  # bytes for all programs together; None: as much as the machine has
    disk: int | None = None  # bytes for all files; None: as much as the machine has
    own_folders: Sequence[Path] = ()  # the folders whose disk use is measured, none within another; empty: the home

    access_token: str | None = None  # the X-Access-Token for files, commands and code; None: these need none
    variables: Mapping[str, str] = field(default_factory=dict)  # of the create call, then E2B_SANDBOX and the like
    _killed: dict[int, str] = field(default_factory=dict)
    _killed_below: dict[int, str] = field(default_factory=dict)

    def note_kill(self, pid: int, reason: str) -> None:
        """Keep the manager's reason for killing a process, also for the processes above it, such as its shell."""
        self._killed[pid] = reason
        for parent in _parents(pid):
            self._killed_below[parent] = reason
        for old in list(self._killed_below)[:-_NOTICES]:
            del self._killed_below[old]
        for old in list(self._killed)[:-_NOTICES]:
            del self._killed[old]

    def take_kill_reason(self, pid: int) -> str | None:
        """Return the manager's reason for killing a process, and forget the reason. None: no reason is known."""
        self._killed_below.pop(pid, None)
        return self._killed.pop(pid, None)

    def take_reason_below(self, pid: int) -> str | None:
        """Return and forget the manager's reason for killing a process below another, or None."""
        return self._killed_below.pop(pid, None)

    def environment(self, username: str | None = None, home: Path | None = None) -> dict[str, str]:
        """Return a program's environment variables, to which the request that starts the program may add others.

        ``username`` and ``home`` belong to the user that the program runs as. Without these arguments, the variables
        are for a program that runs as the sandbox program's own user, such as a Jupyter kernel.
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


def _parents(pid: int) -> Iterator[int]:
    """Give the processes above another one, up to this process."""
    while pid > 1:
        try:
            # After the name, which may have any character: the state, then the parent.
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return
        if pid in (0, 1, os.getpid()):
            return
        yield pid
