"""``POST /files/compose``: several files become one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request

from .. import disk_space as space
from ..http_errors import HttpError
from ..paths import PathError, resolve
from ..system_errors import NO_SPACE, describe
from ..users import User
from . import folders
from .spool import copy_range
from .write import described

_FILE_MODE = 0o644
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


async def compose(request: Request, user_named: Callable[[str | None], User]) -> dict[str, Any]:
    """Join the files of ``source_paths`` in their order, put the result in place of ``destination``, remove them.

    The destination changes in one step, and only when all content is there: until then, and after every error, it and
    the sources are as they were.

    Args:
        request: its body names the paths and, if it likes, a ``username``.
        user_named: finds a user; raises :class:`HttpError`.

    Returns:
        The response.

    Raises:
        HttpError: something cannot be read or written.
    """
    sources, destination, username = _wanted(await request.body())
    user = user_named(username)
    target = _path(destination, user)
    paths = [_path(source, user) for source in sources]
    # In a thread: it may be much.
    await asyncio.to_thread(_compose, paths, target, user)
    return described(target)


def _wanted(body: bytes) -> tuple[list[str], str, str | None]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HttpError(400, f"error parsing request body: invalid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise HttpError(400, "error parsing request body: not a JSON object")
    sources, destination, username = (fields.get(name) for name in ("source_paths", "destination", "username"))
    if not sources:
        raise HttpError(400, "source_paths must not be empty")
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
        raise HttpError(400, "error parsing request body: source_paths is not a list of strings")
    if not destination:
        raise HttpError(400, "destination is required")
    if not isinstance(destination, str):
        raise HttpError(400, "error parsing request body: destination is not a string")
    if username is not None and not isinstance(username, str):
        raise HttpError(400, "error parsing request body: username is not a string")
    return sources, destination, username


def _path(path: str, user: User) -> str:
    try:
        return resolve(path, user)
    except PathError as error:
        raise HttpError(400, f"error expanding and resolving path '{path}': {error}") from error


def _compose(sources: Sequence[str], target: str, user: User) -> None:
    size = sum(_size(source, target) for source in sources)
    temporary = f"{target}.e2b-compose.{uuid.uuid4()}.tmp"
    try:
        if Path(target).is_dir():
            raise HttpError(400, f"path is a directory: {target}")
        folders.ensure(Path(target).parent, user)
        if not space.has_room(temporary, size):
            raise _no_space()
        with _removed_on_failure(temporary):
            _join(sources, temporary, user)
            os.replace(temporary, target)  # noqa: PTH105  # a plain system call, no file is read
    except folders.NotAFolderError as error:
        raise HttpError(500, f"error ensuring directories: {error}") from error
    except OSError as error:
        if error.errno in NO_SPACE:
            raise _no_space() from error
        raise HttpError(500, f"error composing file: {describe('write', target, error)}") from error
    for source in sources:
        try:
            os.unlink(source)  # noqa: PTH108  # a plain system call
        except FileNotFoundError:
            continue  # it was named twice
        except OSError as error:
            raise HttpError(500, f"error removing source file: {describe('unlink', source, error)}") from error


def _size(source: str, target: str) -> int:
    try:
        facts = os.stat(source)  # noqa: PTH116  # a plain system call
    except (FileNotFoundError, NotADirectoryError):
        raise HttpError(404, f"source file not found: {source}") from None
    except OSError as error:
        raise HttpError(500, f"error opening source file: {describe('open', source, error)}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise HttpError(400, f"source path is not a regular file: {source}")
    # By identity: there are many ways to write a path, and the result must not be removed as a source.
    if Path(target).exists() and os.path.samestat(facts, os.stat(target)):  # noqa: PTH116 - a plain system call
        raise HttpError(400, f'source path "{source}" cannot be the same as destination')
    return facts.st_size


def _no_space() -> HttpError:
    return HttpError(507, "not enough disk space available")


@contextlib.contextmanager
def _removed_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - a plain system call
        raise


def _join(sources: Sequence[str], path: str, user: User) -> None:
    descriptor = os.open(path, _FLAGS, _FILE_MODE)
    try:
        user.own(descriptor)
        for source in sources:
            with open(source, "rb", buffering=0) as file:  # noqa: PTH123 - a plain system call
                copy_range(file.fileno(), descriptor, 0, os.fstat(file.fileno()).st_size)
    finally:
        os.close(descriptor)
