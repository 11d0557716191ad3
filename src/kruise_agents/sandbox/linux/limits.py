"""What a sandbox's program does to itself before anything else runs: limits that all that it starts inherits."""

from __future__ import annotations

import resource
from pathlib import Path

from ...protocol.control import ProgramLimits

_CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
_NO_PIPE = 1
"""A limit that tells the kernel to start no helper for a core dump; zero does not."""


def apply(limits: ProgramLimits) -> None:
    """Set the limits, hard ones.

    Must come before the step into the inner user namespace: what a process may start when it makes one is what
    everybody in there may have together.
    """
    for kind, value in (
        (resource.RLIMIT_NPROC, limits.max_processes),
        (resource.RLIMIT_DATA, limits.max_data),
        (resource.RLIMIT_FSIZE, limits.max_file),
    ):
        if value is not None:
            _lower(kind, value)
    if _CORE_PATTERN.read_text(encoding="utf-8", errors="replace").startswith("|"):
        # The host would start its crash reporter, as root and outside, on what a program in here has become.
        _lower(resource.RLIMIT_CORE, _NO_PIPE)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    wanted = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (wanted, wanted))
