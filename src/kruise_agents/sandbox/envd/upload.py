"""``POST /files``."""

from __future__ import annotations

import contextlib
import errno
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from . import metadata
from .decompression import DecompressionError, gunzip
from .http_errors import HttpError
from .paths import PathError, resolve
from .spool import Spool
from .users import User
from .writing import no_space, write_file

# What httpx escapes in a filename, beside the backslash, which the parser reads.
_ESCAPE = re.compile("%(22|0[0-9A-F]|1[0-9AC-F])")

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
    with Spool() as spool:
        with _full_disk_is_507(request):
            await spool.fill(_content(request))
        return [await write_file(target, spool, user, attributes)]


async def _upload_parts(request: Request, user: User, attributes: dict[str, str]) -> _Written:
    form = await _parse(request)
    try:
        written: _Written = []
        seen: list[str] = []
        for part in form.getlist("file"):
            path = _target(request.query_params.get("path") or _filename(part), user)
            if path in seen:
                raise HttpError(400, _same_path_text(path, seen))
            spool = await _spooled(part)
            written.append(await write_file(path, spool, user, attributes))
            seen.append(path)
        return written
    finally:
        await form.close()


async def _parse(request: Request) -> FormData:
    # The parser keeps each part as `Spool` does: a mebibyte in memory, more in a file without a name.
    parser = _FormParser(request.headers, _content(request))
    try:
        with _full_disk_is_507(request):
            return await parser.parse()
    except MultiPartException as error:
        raise HttpError(400, f"error parsing multipart form: {_reason(error)}") from error


class _FormParser(MultiPartParser):
    """Refuses a form that is not complete: a body may have all of its length and end in the middle of one."""

    def __init__(self, headers: Headers, content: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers, self._whole(content), max_files=math.inf, max_fields=math.inf)
        self._closed = False

    def on_end(self) -> None:
        self._closed = True

    async def _whole(self, content: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in content:
            yield chunk
        # Raised here and not after parsing, so that the parser closes its files.
        if not self._closed:
            raise MultiPartException("it ended early, before its closing boundary")


def _reason(error: MultiPartException) -> str:
    """What was wrong with a form; the message names no cause when that is its syntax."""
    text = f"{error.message} {error.__cause__ or ''}".strip()
    if "header size" in text:
        text += ", probably by the filename: a path may have 4095 bytes"
    return text


def _filename(part: UploadFile | str) -> str:
    name = part.filename if isinstance(part, UploadFile) else None
    if not name:
        raise HttpError(400, "error parsing multipart form: a file needs a filename or the path query parameter")
    return _unescaped(name)


def _unescaped(name: str) -> str:
    """A filename of a form without the escapes of httpx: ``%22`` for a quote, ``%0A`` for a line's end ...

    httpx leaves a percent sign alone, so a name that really has one of these in it cannot be told from an escaped
    one, and loses it. Such a name needs the ``path`` parameter, which has no second meaning.
    """
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), name)


async def _spooled(part: UploadFile | str) -> Spool:
    if isinstance(part, UploadFile) and (part.size or 0) > MultiPartParser.spool_max_size:
        return Spool(part.file)
    spool = Spool()
    # A part without a filename comes as text, decoded as the parser's default says.
    await spool.fill(_once(part.file.read() if isinstance(part, UploadFile) else part.encode()))
    return spool


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _content(request: Request) -> AsyncGenerator[bytes, None]:
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding == "gzip":
        return gunzip(request.stream())
    if encoding in ("", "identity"):
        return request.stream()
    raise DecompressionError(f"unsupported Content-Encoding: {encoding}, supported: gzip")


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
def _full_disk_is_507(request: Request) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(int(request.headers.get("content-length", 0))) from error
        raise
