"""The command ``kruise-agents``."""

from __future__ import annotations

import sys

from .exit_codes import EXIT_USAGE

__all__ = ["main"]


def main() -> None:
    """Run the command, and end the process with an exit code."""
    try:
        from .serve import cli
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__package__.partition(".")[0]):
            raise
        print(
            f"kruise-agents: {error.name} is missing; the command needs the extra 'local': "
            "pip install 'kruise-agents[local]', or in a clone pip install '.[local]'",
            file=sys.stderr,
        )
        sys.exit(EXIT_USAGE)
    cli()
