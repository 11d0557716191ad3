"""The route ``POST /files/compose``, which joins several files into one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request

from ....protocol.fields import FieldError, Fields
from .. import disk_space
from ..errors import NO_SPACE, HttpError, describe
from ..paths import resolve_for_http
from ..users import User
from . import folders
from .spool import copy_range
from .write import file_info

_FILE_MODE = 0o644
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


async def compose(request: Request, user_named: Callable[[str | None], User]) -> dict[str, Any]:
    """Join the files of ``source_paths`` in order, put the result at ``destination``, and remove the sources.

    The destination is replaced atomically when all content is there. An error before that leaves all files as they
    were. If a source cannot be removed, that source and later sources remain. ``user_named`` returns a user by name.
    """
    sources, destination, username = _parse(await request.body())
    user = user_named(username)
    target = resolve_for_http(destination, user)
    paths = [resolve_for_http(source, user) for source in sources]
    await asyncio.to_thread(_compose, paths, target, user)
    return file_info(target)


def _parse(body: bytes) -> tuple[list[str], str, str | None]:
    try:
        fields = Fields.parse(body)
        if not fields.value("source_paths"):
            raise HttpError(400, "source_paths must not be empty")
        sources = fields.texts("source_paths")
        if not fields.value("destination"):
            raise HttpError(400, "destination is required")
        return sources, fields.required_text("destination"), fields.text("username")
    except FieldError as error:
        raise HttpError(400, f"error parsing request body: {_type_text(error)}") from error
    except ValueError as error:
        raise HttpError(400, f"error parsing request body: invalid JSON: {error}") from error


def _type_text(error: FieldError) -> str:
    if not error.path:
        return "not a JSON object"
    return f"{error.name} is not {'a list of strings' if error.name == 'source_paths' else error.wanted}"


def _compose(sources: Sequence[str], target: str, user: User) -> None:
    size = sum(_size(source, target) for source in sources)
    temporary = f"{target}.e2b-compose.{uuid.uuid4()}.tmp"
    try:
        if Path(target).is_dir():
            raise HttpError(400, f"path is a directory: {target}")
        folders.ensure(Path(target).parent, user)
        if not disk_space.has_room(temporary, size):
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
            continue  # the source was named twice, or another program removed the file
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
    # Files are compared by inode, because a path has many spellings. The result must not be removed as a source.
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
