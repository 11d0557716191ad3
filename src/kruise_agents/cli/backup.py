"""The command ``kruise-agents backup``."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import click

from ..embedded import default_state_dir
from ..errors import KruiseAgentsError
from ..manager.backup import back_up
from ..manager.runtime.files.copying import FULL
from ..manager.runtime.files.trees import IncompleteCopyError
from .exit_codes import EXIT_INCOMPLETE, fail

_FAILED = 1

state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The manager's state folder.  [default: that of 'kruise-agents serve']",
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path))
@state_dir_option
def command(folder: Path, state_dir: Path | None) -> None:
    """Copy a manager's state folder into a new FOLDER, also while the manager runs.

    The copy has snapshots, volumes, paused sandboxes, keys and secrets, and is as secret as the original.
    """
    copy(lambda: back_up(state_dir or default_state_dir(), folder))


def main(arguments: list[str]) -> None:
    """Run ``kruise-agents backup``."""
    command.main(arguments, prog_name="kruise-agents backup")


def copy(action: Callable[[], None]) -> None:
    """Call ``action``. Turn an error into words and an exit code."""
    try:
        action()
    except IncompleteCopyError as error:
        if error.errno in FULL:
            fail(error, _FAILED)
        fail("\n  ".join(["everything was copied but for these files:", *error.lines]), EXIT_INCOMPLETE)
    except KruiseAgentsError as error:
        fail(error)
    except (OSError, sqlite3.Error) as error:
        reason = (
            f"{error.filename}: {os.strerror(error.errno)}" if isinstance(error, OSError) and error.errno else error
        )
        fail(reason, _FAILED)
