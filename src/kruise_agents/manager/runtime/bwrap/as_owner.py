"""Operations on sandbox files with the rights of the files' owners, in a user namespace that has the owners' IDs."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ....protocol.names import USER_ID
from ..files.identities import Identities
from ..files.trees import copy_command, measured, run_copy
from .launch import RUN_SECONDS, Setup, run, start
from .mounts import own_mounts, program_mounts
from .options import owners_namespace

logger = logging.getLogger(__name__)


def give(folder: Path, identities: Identities) -> None:
    """Give an empty folder, which the manager's user owns, to the default user of sandboxes."""
    # In this namespace each ID is higher by 1 than in a sandbox, see Identities.
    owner = f"{USER_ID + 1}:{USER_ID + 1}"
    _run_as_owners(["chown", owner, "--", str(folder)], identities, "CHOWN", "FOWNER")


def size(folder: Path, identities: Identities | None) -> int:
    """Return a folder's size like :func:`.tree_size`, but with the contents of folders that deny their owner access."""

    def run_as_owners(command: Sequence[str]) -> str:
        # A large tree takes as long as it takes.
        return _run_as_owners(command, identities, "DAC_OVERRIDE", "FOWNER", seconds=None)

    return measured(folder, run_as_owners)


def remove(folder: Path, identities: Identities) -> None:
    """Remove a folder with the files of a sandbox's users, as far as possible. A failure is only logged."""
    try:
        _run_as_owners(["rm", "-rf", "--", str(folder)], identities, "DAC_OVERRIDE", "FOWNER", seconds=None)
    except OSError as error:
        logger.warning("%s could not be removed as its owners: %s", folder, error)


def move(folder: Path, target: Path, identities: Identities) -> None:
    """Move a folder with the files of a sandbox's users. Raises OSError if that fails."""
    _run_as_owners(["mv", "-T", "--", str(folder), str(target)], identities, "DAC_OVERRIDE", "FOWNER")


async def copy(source: Path, target: Path, identities: Identities | None) -> None:
    """Copy a folder to an empty folder. Raises OSError if that fails.

    Besides the two folders, the copying program sees only the host's programs and libraries. So no link in the
    folders, even one made during the copy, leads to other files of the host.
    """
    inside = (Path("/source"), Path("/target"))
    options = [*owners_namespace("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"), *program_mounts(), *own_mounts()]
    options += ["--ro-bind", str(source), str(inside[0]), "--bind", str(target), str(inside[1])]

    def start_copy(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        return start(options, command, Setup(identities, output)).process

    await run_copy(start_copy, copy_command(*inside))


def _run_as_owners(
    command: Sequence[str], identities: Identities | None, *capabilities: str, seconds: float | None = RUN_SECONDS
) -> str:
    # The command sees the paths of the host. Devices are needed, because shells open /dev/null.
    options = [*owners_namespace(*capabilities), "--dev-bind", "/", "/"]
    return run(options, command, identities, seconds)
