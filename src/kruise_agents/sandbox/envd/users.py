"""Who a request acts as, and who owns what it makes.

One sandbox has one user; everything that depends on there being only one is in this file.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from ..connect import Call, Code, ConnectError
from ..state import SandboxState


class UnknownUserError(Exception):
    """A request names a user that this sandbox does not have."""

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
        """Make a file (by descriptor) or a folder (by path) the user's own.

        Called even where it changes nothing: the change of owner is one of the watch events of an upload. A file
        of somebody else that is writable to everybody stays theirs.
        """
        with contextlib.suppress(PermissionError):
            os.chown(target, self.uid, self.gid)


class Users:
    """Finds users by name."""

    def __init__(self, state: SandboxState) -> None:
        self._state = state

    def named(self, name: str | None) -> User:
        """The user with this name; without one, the default user.

        Raises:
            UnknownUserError: there is no such user.
        """
        if name and name != self._state.username:
            raise UnknownUserError(name)
        return User(self._state.username, os.getuid(), os.getgid(), self._state.home)

    def of_call(self, call: Call) -> User:
        """The user that an RPC names in ``Authorization: Basic``; the password is not looked at.

        Raises:
            ConnectError: ``unauthenticated``: no such user.
        """
        try:
            return self.named(_basic_username(call.headers.get("authorization", "")))
        except UnknownUserError as error:
            raise ConnectError(Code.UNAUTHENTICATED, f"invalid username: '{error.name}'") from error

    def owner_name(self, uid: int) -> str:
        """The name of a file's owner, or its number as text."""
        # The program runs as the sandbox's user, whatever the password file calls it.
        return self._state.username if uid == os.getuid() else _user_name(uid)

    def group_name(self, gid: int) -> str:
        """The name of a file's group, or its number as text."""
        return self._state.username if gid == os.getgid() else _group_name(gid)


def _basic_username(header: str) -> str | None:
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(credentials.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return decoded.partition(":")[0]


@functools.lru_cache(maxsize=64)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@functools.lru_cache(maxsize=64)
def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
