"""What the parts of one sandbox share: who the user is, where home is, and what the manager set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class SandboxState:
    """The facts of this sandbox.

    The first group is fixed when the program starts. The second is set by the manager when the sandbox is
    handed to somebody (it may have waited in a pool before that) and may be set again.
    """

    username: str
    """The only user that programs run as (``user``)."""
    home: Path
    """That user's home, an absolute path; relative paths and ``~`` lead below it."""
    path: str
    """``PATH`` of every program."""
    python: Path
    """The interpreter for kernels and for ``python`` on ``PATH``."""

    access_token: str | None = None
    """What ``X-Access-Token`` must equal; None means that nobody is asked."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The sandbox's environment variables: those of the create call, then the internal ones."""

    def environment(self) -> dict[str, str]:
        """The whole environment of a program started here, before the variables of a single call."""
        return {
            "PATH": self.path,
            "HOME": str(self.home),
            "USER": self.username,
            "LOGNAME": self.username,
            **self.variables,
        }
