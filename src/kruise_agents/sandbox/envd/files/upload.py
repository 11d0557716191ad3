"""``POST /files``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from starlette.requests import Request

from .. import disk_space as space
from ..decompression import DecompressionError, gunzip
from ..http_errors import HttpError
from ..paths import PathError, resolve
from ..system_errors import NO_SPACE
from ..users import User
from . import metadata
from .multipart import FilePart, FormError, read_form
from .spool import Spool
from .write import write_file

_Written = list[dict[str, Any]]


async def upload(request: Request, user: User) -> _Written:
    """Write the files of a request; the response: one item a file, in the order of the request.

    Raises:
        HttpError: something cannot be written; parts before it were.
        ClientDisconnect: the body ended early; no file was touched.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    attributes = _metadata(request)
    try:
        if media_type == "application/octet-stream":
            return await _upload_raw(request, user, attributes)
        if media_type == "multipart/form-data":
            return await _upload_parts(request, user, attributes)
    except DecompressionError as error:
        raise HttpError(400, f"error decompressing request body: {error}") from error
    raise HttpError(
        400,
        f"unsupported content type: {content_type}, expected multipart/form-data or application/octet-stream",
    )


async def _upload_raw(request: Request, user: User, attributes: dict[str, str]) -> _Written:
    path = request.query_params.get("path")
    if not path:
        raise HttpError(400, "path query parameter is required for raw body upload")
    target = _target(path, user)
    content = _content(request)
    with Spool() as spool:
        with _full_disk_is_507(request, target, spool):
            complete = await spool.fill(content)
        return [await write_file(target, complete, user, attributes)]


async def _upload_parts(request: Request, user: User, attributes: dict[str, str]) -> _Written:
    path = request.query_params.get("path")
    target = _target(path, user) if path else None
    content = _content(request)
    written: _Written = []
    seen: list[str] = []
    with Spool() as spool:
        for part in await _parts(request, content, target, spool):
            file = target or _target(_filename(part), user)
            if file in seen:
                raise HttpError(400, _same_path_text(file, seen))
            written.append(await write_file(file, part.content, user, attributes))
            seen.append(file)
    return written


async def _parts(
    request: Request, content: AsyncGenerator[bytes, None], target: str | None, spool: Spool
) -> list[FilePart]:
    try:
        with _full_disk_is_507(request, target, spool):
            return await read_form(request.headers["content-type"], content, spool)
    except FormError as error:
        raise HttpError(400, f"error parsing multipart form: {error}") from error


def _filename(part: FilePart) -> str:
    if part.filename is None:
        raise HttpError(400, "error parsing multipart form: a file needs a filename or the path query parameter")
    return part.filename


def _content(request: Request) -> AsyncGenerator[bytes, None]:
    encoding = _encoding(request)
    if encoding == "gzip":
        return gunzip(request.stream())
    if encoding in ("", "identity"):
        return request.stream()
    raise DecompressionError(f"unsupported Content-Encoding: {encoding}, supported: gzip")


def _encoding(request: Request) -> str:
    return request.headers.get("content-encoding", "identity").lower()


def _target(path: str, user: User) -> str:
    try:
        return resolve(path, user)
    except PathError as error:
        raise HttpError(400, f"error expanding and resolving path '{path}': {error}") from error


def _metadata(request: Request) -> dict[str, str]:
    try:
        return metadata.from_headers(request.headers.items())
    except metadata.MetadataError as error:
        raise HttpError(400, f"invalid metadata: {error}") from error


def _same_path_text(path: str, uploaded: list[str]) -> str:
    text = (
        f"you cannot upload multiple files to the same path '{path}' in one upload request,"
        " only the first specified file was uploaded"
    )
    others = [other for other in uploaded if other != path]
    return f"{text}, also the following files were uploaded: {', '.join(others)}" if others else text


@contextlib.contextmanager
def _full_disk_is_507(request: Request, target: str | None, spool: Spool) -> Iterator[None]:
    """Around taking a body in: refuses at once what is known to be too large, and says so of what turns out to be."""
    length = int(request.headers.get("content-length", 0))
    if _encoding(request) != "gzip":  # whose length says nothing of what is in it
        space.require_for_body(length, target)
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise space.no_space(max(length, spool.size)) from error
        raise
