"""Paths in requests and responses."""

from __future__ import annotations

import os
import re

from .errors import HttpError
from .users import User

_SURROGATE = re.compile("[\ud800-\udfff]")


class PathError(ValueError):
    """A path that cannot be expanded."""


def resolve(path: str, user: User) -> str:
    """Return the absolute path that a request means. Symbolic links are not followed.

    An absolute path is returned unchanged. The empty path and ``~`` mean the user's home, and ``a`` means ``~/a``.
    Raise PathError for the home of a named user (``~bob``), a NUL character or a lone surrogate.
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
    """Return the path from :func:`resolve`, but raise HttpError 400 instead of PathError."""
    try:
        return resolve(path, user)
    except PathError as error:
        raise HttpError(400, f"error expanding and resolving path '{path}': {error}") from error


def without_trailing_slashes(path: str) -> str:
    """Return a path without trailing slashes, which make Linux follow a symbolic link. ``/`` stays ``/``."""
    return path.rstrip("/") or "/"


def base_name(path: str) -> str:
    """Return the last component of a path, ``c`` for ``/b/c``, ``/b/c/`` and ``/b/c/.``. Return ``/`` for the root."""
    last = path.rpartition("/")[2]
    if last not in ("", "."):  # as in most paths; the search below takes longer
        return last
    return next((part for part in reversed(path.split("/")) if part not in ("", ".")), "/")


def displayable(name: str) -> str:
    """Return a name or path as JSON can hold it, with U+FFFD in place of bytes that are not UTF-8."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "replace")
