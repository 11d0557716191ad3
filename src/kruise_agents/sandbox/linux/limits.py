"""What a sandbox's program does to itself before anything else runs: limits that all that it starts inherits."""

from __future__ import annotations

import argparse
import resource
from pathlib import Path

_CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
_NO_PIPE = 1
"""A limit that tells the kernel to start no helper for a core dump; zero does not."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options by which the manager says what :func:`apply` sets. What is left out stays as it is."""
    parser.add_argument("--memory", type=int, help="bytes of memory of the sandbox, to be reported")
    parser.add_argument("--disk", type=int, help="bytes of files of the sandbox, to be reported")
    parser.add_argument("--max-processes", type=int, help="processes and threads of the sandbox, together")
    parser.add_argument("--max-data", type=int, help="bytes of memory of its own that one process may have")
    parser.add_argument("--max-file", type=int, help="bytes of one file")


def apply(options: argparse.Namespace) -> None:
    """Set the limits, hard ones.

    Must come before the step into the inner user namespace: what a process may start when it makes one is what
    everybody in there may have together.
    """
    for kind, value in (
        (resource.RLIMIT_NPROC, options.max_processes),
        (resource.RLIMIT_DATA, options.max_data),
        (resource.RLIMIT_FSIZE, options.max_file),
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
