"""The command ``kruise-agents``."""

from __future__ import annotations

import sys

__all__ = ["main"]

EXIT_USAGE = 2
"""A setting cannot work, and nothing was started. click uses this code too."""
EXIT_RUNTIME = 3
"""Sandboxes cannot be isolated on this machine as asked."""


def main() -> None:
    """Run the command and end the process with an exit code."""
    try:
        from .serve import cli
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__package__.partition(".")[0]):
            raise
        print(
            f"kruise-agents: {error.name} is missing; the command needs the extra 'local': "
            "pip install 'kruise-agents[local]'",
            file=sys.stderr,
        )
        sys.exit(EXIT_USAGE)
    cli()
