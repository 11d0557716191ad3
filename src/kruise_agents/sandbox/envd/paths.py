"""Paths of requests."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath

from .errors import HttpError
from .users import User

_SURROGATE = re.compile("[\ud800-\udfff]")


class PathError(ValueError):
    """A path that cannot be expanded."""


def resolve(path: str, user: User) -> str:
    """Return the absolute path that a request means. Links are not followed.

    The empty path is the home; ``~`` and relative paths lead below it. Another user's home (``~bob``), a NUL character
    or a lone surrogate raises PathError.
    """
    if "\0" in path or _SURROGATE.search(path):
        raise PathError(f"failed to expand path {path!r} for user '{user.name}': invalid argument")
    if path.startswith("/"):
        return path
    if path.startswith("~"):
        head, _, path = path.partition("/")
        if head != "~":
            raise PathError(
                f"failed to expand path '{head + '/' + path if path else head}' for user '{user.name}':"
                " cannot expand user-specific home dir"
            )
    return os.path.normpath(f"{user.home}/{path}")


def resolve_for_http(path: str, user: User) -> str:
    """Return what :func:`resolve` returns; raise HttpError 400."""
    try:
        return resolve(path, user)
    except PathError as error:
        raise HttpError(400, f"error expanding and resolving path '{path}': {error}") from error


def without_trailing_slashes(path: str) -> str:
    """Return the path of an entry itself: with a trailing slash, the system follows a link."""
    return path.rstrip("/") or "/"


def base_name(path: str) -> str:
    """Return the last component; trailing slashes do not count."""
    return PurePosixPath(path).name or "/"


def displayable(name: str) -> str:
    """Return a name that can be sent in JSON: bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(name).decode("utf-8", "replace")
