"""Exit codes of the commands, for scripts."""

from __future__ import annotations

import sys
from typing import NoReturn

from ..embedded import NO_NAMESPACES

EXIT_USAGE = 2
"""An argument, option, variable or file cannot be used, or an extra is missing. Nothing was started.
For `doctor`: something is broken."""
EXIT_RUNTIME = NO_NAMESPACES
"""Sandboxes cannot be isolated on this machine."""
EXIT_INTERRUPTED = 130
"""Ctrl-C, as shells say it: 128 and the number of SIGINT."""
EXIT_INCOMPLETE = 4
"""A backup or restore is done but for the files that it names on standard error."""


def fail(reason: object, code: int = EXIT_USAGE) -> NoReturn:
    """Print a reason on standard error, and end the process with an exit code."""
    print(f"kruise-agents: {reason}", file=sys.stderr)
    sys.exit(code)
