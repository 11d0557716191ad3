"""The command ``kruise-agents restore``."""

from __future__ import annotations

from pathlib import Path

import click

from ..embedded import default_state_dir
from ..manager.backup import restore
from .backup import copy, state_dir_option


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("backup", type=click.Path(exists=True, file_okay=False, path_type=Path))
@state_dir_option
def command(backup: Path, state_dir: Path | None) -> None:
    """Make a state folder from a BACKUP, for the next start of a manager.

    The state folder must be empty or missing. The backup is copied and checked beside it first: if something is wrong,
    the state folder is as before.
    """
    copy(lambda: restore(backup, state_dir or default_state_dir()))


def main(arguments: list[str]) -> None:
    """Run ``kruise-agents restore``."""
    command.main(arguments, prog_name="kruise-agents restore")
