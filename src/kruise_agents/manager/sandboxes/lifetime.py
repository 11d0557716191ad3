"""How long a sandbox lives and what becomes of it then: what the create call asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The wishes of a create call. Times are in seconds."""

    seconds: float
    """From the moment it is ready to its end time; also the least that traffic gives it when it wakes it."""
    never_ends: bool = False
    """It has no end time, whatever is asked later."""
    pause_at_end: bool = False
    """At the end time it is paused instead of ended."""
    pause_keeps_memory: bool = True
    """Whether that pause keeps processes, or only files."""
    wakes_on_traffic: bool = False
    """Whether a request to one of its ports resumes it."""
    paused_seconds: float | None = None
    """How long it may stay paused before it is ended; None: for ever."""

    def enforced(self, seconds: float | None) -> float | None:
        """After how many of ``seconds`` the sandbox ends by itself, manager or not; None: it never does.

        Only a manager can pause it.
        """
        return None if self.never_ends or self.pause_at_end else seconds
