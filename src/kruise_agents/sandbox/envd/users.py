"""Users of the sandbox: the user that a request acts as, and the names of a file's owner and group."""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import grp
import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..connect import Call, Code, ConnectError
from ..state import SandboxState

_PASSWORD_FILE = Path("/etc/passwd")
_GROUP_FILE = Path("/etc/group")


class UnknownUserError(Exception):
    """A user that this sandbox does not have."""

    def __init__(self, name: str) -> None:
        super().__init__(f"user: unknown user {name}")
        self.name = name


@dataclass(frozen=True, slots=True)
class User:
    """An operating-system user."""

    name: str
    uid: int
    gid: int
    home: Path

    def own(self, target: int | Path) -> None:
        """Make this user the owner of a file (by descriptor) or a folder (by path). Without permission, do nothing."""
        # ``chown`` is called even if nothing changes, because watches of the folder report the call as an event.
        # This process may not change, for example, the owner of another user's file that everybody may write to.
        with contextlib.suppress(PermissionError):
            os.chown(target, self.uid, self.gid)

    @property
    def groups(self) -> list[int]:
        return os.getgrouplist(self.name, self.gid)


@dataclass(frozen=True, slots=True)
class Names:
    """Functions that return the name of a user or group ID, or the number as text if the ID has no name."""

    owner: Callable[[int], str]
    group: Callable[[int], str]


class Users:
    """The users of one sandbox."""

    def __init__(self, state: SandboxState) -> None:
        self._state = state

    def named(self, name: str | None) -> User:
        """Return the user called ``name``, or the default user if ``name`` is None or empty."""
        name = name or self._state.username
        if not self._state.several_users:
            # ``root`` also means the only user, so that clients that ask for root work.
            if name not in (self._state.username, "root"):
                raise UnknownUserError(name)
            return User(self._state.username, os.getuid(), os.getgid(), self._state.home)
        return _user(name, _version(_PASSWORD_FILE))

    def of_call(self, call: Call) -> User:
        """Return the user in ``Authorization: Basic``, or the default user. Raise ConnectError for an unknown user."""
        try:
            return self.named(_basic_username(call.headers.get("authorization", "")))
        except UnknownUserError as error:
            raise ConnectError(Code.UNAUTHENTICATED, f"invalid username: '{error.name}'") from error

    def names(self) -> Names:
        """Return functions that find and cache names of owners and groups. Use the functions for one request only."""
        return Names(functools.cache(self._owner_name), functools.cache(self._group_name))

    def _owner_name(self, uid: int) -> str:
        if not self._state.several_users and uid == os.getuid():
            return self._state.username  # the host's password file may have another name for this id
        return _name(uid, _PASSWORD_FILE, _version(_PASSWORD_FILE))

    def _group_name(self, gid: int) -> str:
        if not self._state.several_users and gid == os.getgid():
            return self._state.username
        return _name(gid, _GROUP_FILE, _version(_GROUP_FILE))


def _basic_username(header: str) -> str | None:
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(credentials.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return decoded.partition(":")[0]  # the password is ignored


def _version(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=128)
def _user(name: str, _version: int) -> User:
    try:
        found = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise UnknownUserError(name) from None
    return User(name, found.pw_uid, found.pw_gid, Path(found.pw_dir))


@functools.lru_cache(maxsize=128)
def _name(number: int, file: Path, _version: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name if file == _PASSWORD_FILE else grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
