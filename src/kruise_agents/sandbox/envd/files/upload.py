"""The route ``POST /files``: uploads."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from starlette.requests import Request

from .. import disk_space
from ..errors import NO_SPACE, HttpError
from ..paths import resolve_for_http
from ..users import User
from . import metadata
from .encodings import gunzip, not_decodable
from .multipart import read_form
from .spool import Spool
from .write import write_file

_Written = list[dict[str, Any]]


async def upload(request: Request, user: User) -> _Written:
    """Write the files of a request, and return a description of each file in the order of the request.

    If a file cannot be written, the files before this file stay written. If the body ends early, no file is written.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    attributes = metadata.from_headers(request.headers.items())
    if media_type == "application/octet-stream":
        return await _upload_raw(request, user, attributes)
    if media_type == "multipart/form-data":
        return await _upload_parts(request, user, attributes)
    expected = "multipart/form-data or application/octet-stream"
    raise HttpError(400, f"unsupported content type: {content_type}, expected {expected}")


async def _upload_raw(request: Request, user: User, attributes: dict[str, str]) -> _Written:
    path = request.query_params.get("path")
    if not path:
        raise HttpError(400, "path query parameter is required for raw body upload")
    target = resolve_for_http(path, user)
    content = _content(request)
    with Spool() as spool:
        with _full_disk_is_507(request, target, spool):
            complete = await spool.fill(content)
        return [await write_file(target, complete, user, attributes)]


async def _upload_parts(request: Request, user: User, attributes: dict[str, str]) -> _Written:
    path = request.query_params.get("path")
    target = resolve_for_http(path, user) if path else None
    content = _content(request)
    written: _Written = []
    seen: list[str] = []
    with Spool() as spool:
        with _full_disk_is_507(request, target, spool):
            parts = await read_form(request.headers["content-type"], content, spool)
        for part in parts:
            file = target or resolve_for_http(part.required_filename, user)
            if file in seen:
                raise HttpError(400, _same_path_text(file, seen))
            written.append(await write_file(file, part.content, user, attributes))
            seen.append(file)
    return written


def _content(request: Request) -> AsyncGenerator[bytes, None]:
    encoding = _encoding(request)
    if encoding == "gzip":
        return gunzip(request.stream())
    if encoding in ("", "identity"):
        return request.stream()
    raise not_decodable(f"unsupported Content-Encoding: {encoding}, supported: gzip")


def _encoding(request: Request) -> str:
    return request.headers.get("content-encoding", "identity").lower()


def _same_path_text(path: str, uploaded: list[str]) -> str:
    text = (
        f"you cannot upload multiple files to the same path '{path}' in one upload request,"
        " only the first specified file was uploaded"
    )
    others = [other for other in uploaded if other != path]
    return f"{text}, also the following files were uploaded: {', '.join(others)}" if others else text


@contextlib.contextmanager
def _full_disk_is_507(request: Request, target: str | None, spool: Spool) -> Iterator[None]:
    """Raise HttpError 507 if a large body does not fit on the disk, or if the disk fills up during the block."""
    length = int(request.headers.get("content-length", 0))
    if _encoding(request) != "gzip":  # the length of a compressed body says nothing about its content
        disk_space.require_room_for_body(length, target)
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise disk_space.no_space(max(length, spool.size)) from error
        raise
