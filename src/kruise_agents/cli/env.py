"""The command ``kruise-agents env``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..embedded import default_state_dir, running_manager
from ..errors import KruiseAgentsError
from ..shell_variables import FORMATS, print_variables
from .exit_codes import fail

_EXAMPLES = """\
examples:
  eval "$(kruise-agents env)"
  kruise-agents env --format dotenv > .env
  kruise-agents env --format github >> "$GITHUB_ENV"
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    options = argparse.ArgumentParser(
        "kruise-agents env",
        description="Print the environment variables that connect E2B programs with the patch to the manager that runs "
        "on this machine, the key included.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--format", choices=FORMATS, default="shell", help="how they are written (default: shell)")
    options.add_argument(
        "--state-dir",
        type=Path,
        metavar="FOLDER",
        help="the manager's state folder (default: that of 'kruise-agents serve')",
    )
    return options


def main(arguments: list[str]) -> None:
    """Run ``kruise-agents env``."""
    options = parser().parse_args(arguments)
    try:
        connection = running_manager(options.state_dir or default_state_dir())
        print_variables(connection.environment(), options.format)
    except KruiseAgentsError as error:
        fail(error)
