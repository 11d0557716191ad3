"""The host's user and group IDs that stand for the users of a sandbox.

A sandbox with several users needs a range of IDs that belong to nobody on the host. If the manager runs as root, it
takes a fixed range. Otherwise, ``/etc/subuid`` and ``/etc/subgid`` give the manager's user a range, and ``newuidmap``
and ``newgidmap`` (package ``uidmap``) map that range.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ....protocol.names import HIGHEST_ID, ID_COUNT, USER_ID

# The last block of the range that systemd's documentation reserves for containers.
_ROOTS_RANGE = 0x6FFF0000
_KINDS = ("uid", "gid")


class NoIdentitiesError(Exception):
    """This machine has no range of user and group IDs for the users of sandboxes; the text says why."""


@dataclass(frozen=True, slots=True)
class Identities:
    """The IDs of a sandbox's outer user namespace.

    ``bwrap`` mounts folders as ID 0 of the outer namespace. ID 0 is the manager's user, because only that user may
    access all these folders. A range for the sandbox's users begins at 1. The inner user namespace has only this range,
    so no user of a sandbox is the manager's user.
    """

    uid_start: int
    gid_start: int
    helpers: bool  # True: newuidmap and newgidmap have to write the maps

    def give_to(self, pid: int) -> None:
        """Map the IDs into the user namespace of a process. Raises OSError if the host does not permit that."""
        for kind, own, start in (("uid", os.geteuid(), self.uid_start), ("gid", os.getegid(), self.gid_start)):
            if not self.helpers:
                Path(f"/proc/{pid}/{kind}_map").write_text(f"0 {own} 1\n1 {start} {ID_COUNT}\n", encoding="ascii")
                continue
            command = [f"new{kind}map", str(pid), "0", str(own), "1", "1", str(start), str(ID_COUNT)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise OSError(f"{command[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")


@dataclass(frozen=True, slots=True)
class FileOwners:
    """The owners of files that sandboxes and the manager share.

    ``root_ids`` are the host's IDs for user and group ``root`` of a sandbox. If None, the manager owns all files.
    """

    root_ids: tuple[int, int] | None = None

    @property
    def several(self) -> bool:
        return self.root_ids is not None

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """Translate a user ID and a group ID of a sandbox with several users into the host's IDs."""
        assert self.root_ids is not None
        return self.root_ids[0] + uid, self.root_ids[1] + gid

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """Translate host user and group IDs to a sandbox's. With several users, unmapped IDs become ``nobody``."""
        if self.root_ids is None:
            return USER_ID, USER_ID  # the sandbox has one user, who owns all files
        return _within(uid - self.root_ids[0]), _within(gid - self.root_ids[1])


def find_identities() -> Identities:
    """Return ranges of user and group IDs. Raises NoIdentitiesError if this user has no ranges or cannot map them."""
    if os.geteuid() == 0:
        for kind in _KINDS:
            if not _is_mapped(kind, _ROOTS_RANGE):
                raise NoIdentitiesError(
                    f"this container's {kind} map (/proc/self/{kind}_map) has no ids from {_ROOTS_RANGE} on"
                )
        return Identities(_ROOTS_RANGE, _ROOTS_RANGE, helpers=False)
    for kind in _KINDS:
        if shutil.which(f"new{kind}map") is None:
            raise NoIdentitiesError(f"new{kind}map is not installed (system package `uidmap`)")
    return Identities(_subordinate("uid"), _subordinate("gid"), helpers=True)


def _is_mapped(kind: str, first: int) -> bool:
    for line in Path(f"/proc/self/{kind}_map").read_text(encoding="ascii").splitlines():
        start, _, count = (int(field) for field in line.split())
        if start <= first and first + ID_COUNT <= start + count:
            return True
    return False


def _subordinate(kind: str) -> int:
    table = Path(f"/etc/sub{kind}")
    own_id = os.getuid()
    try:
        owners = {str(own_id), pwd.getpwuid(own_id).pw_name}
    except KeyError:
        owners = {str(own_id)}
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise NoIdentitiesError(f"{table} cannot be read: {error.strerror}") from error
    for line in lines:
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in owners and fields[1].isdigit() and fields[2].isdigit():
            start, count = int(fields[1]), int(fields[2])
            if count >= ID_COUNT:
                return start
    raise NoIdentitiesError(f"{table} gives {'/'.join(sorted(owners))} no range of {ID_COUNT} ids")


def _within(number: int) -> int:
    return number if 0 <= number <= HIGHEST_ID else HIGHEST_ID
