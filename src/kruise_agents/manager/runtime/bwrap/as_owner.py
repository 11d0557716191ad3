"""Work on sandbox files as their owners: in a user namespace that has the IDs of the files."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ....protocol.names import USER_ID
from ..files.identities import Identities
from ..files.trees import copy_command, parse_size, run_copy, size_command
from .launch import Setup, run, start
from .mounts import program_mounts
from .options import owners_namespace

logger = logging.getLogger(__name__)


def give(folder: Path, identities: Identities) -> None:
    """Make the default user of sandboxes the owner of an empty folder of the manager."""
    # In this namespace all IDs are higher by 1, see Identities.
    owner = f"{USER_ID + 1}:{USER_ID + 1}"
    _run_as_owners(["chown", owner, "--", str(folder)], identities, "CHOWN", "FOWNER")


def size(folder: Path, identities: Identities | None) -> int:
    """Return the bytes that a folder takes on the disk, including folders that are closed to their owner."""
    return parse_size(_run_as_owners(size_command(folder), identities, "DAC_OVERRIDE", "FOWNER"))


def remove(folder: Path, identities: Identities) -> None:
    """Remove a folder as far as possible, with the files of the sandbox's users. A failure is only logged."""
    try:
        _run_as_owners(["rm", "-rf", "--", str(folder)], identities, "DAC_OVERRIDE", "FOWNER")
    except OSError as error:
        logger.warning("%s could not be removed as its owners: %s", folder, error)


async def copy(source: Path, target: Path, identities: Identities | None) -> None:
    """Copy a folder to an empty folder.

    The copying program sees nothing else of the host, so links that programs exchange meanwhile lead nowhere.
    """
    inside = (Path("/source"), Path("/target"))
    options = [*owners_namespace("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"), *program_mounts()]
    options += ["--ro-bind", str(source), str(inside[0]), "--bind", str(target), str(inside[1])]

    def start_copy(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        return start(options, command, Setup(identities, output)).process

    await run_copy(start_copy, copy_command(*inside))


def _run_as_owners(command: Sequence[str], identities: Identities | None, *capabilities: str) -> str:
    # On the paths of the host. Including devices: shells open /dev/null, and a mount without devices refuses even that.
    options = [*owners_namespace(*capabilities), "--dev-bind", "/", "/"]
    return run(options, command, identities)
