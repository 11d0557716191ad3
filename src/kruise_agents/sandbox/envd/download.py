"""``GET /files``."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..connect.body import ClientGoneError, gone_while
from .content_type import content_type
from .http_errors import HttpError
from .paths import base_name
from .ranges import UnsatisfiableRangeError, not_modified, requested_range
from .system_errors import describe

_CHUNK = 256 * 1024


def download(request: Request, path: str) -> Response:
    """The response with the content of a file.

    Args:
        request: for its conditions and ranges.
        path: absolute.

    Raises:
        HttpError: there is no such file, or it cannot be read.
    """
    _require_identity(request.headers.get("accept-encoding", ""))
    opened = _open(path)
    try:
        return _answer(request, opened)
    except BaseException as error:
        opened.file.close()
        if isinstance(error, OSError):
            raise HttpError(500, f"error reading file '{path}': {describe('read', path, error)}") from error
        raise


@dataclass(frozen=True, slots=True)
class _Opened:
    path: str
    file: io.FileIO
    modified: int
    size: int
    """0 also where it is not known: files in /proc say 0 and have content."""


class _FileResponse(StreamingResponse):
    """Sends pieces of a file as the client takes them, and closes it."""

    def __init__(self, file: io.FileIO, first: bytes, rest: int | None, **how: object) -> None:
        super().__init__(_pieces(file, first, rest), **how)  # type: ignore[arg-type]  # status and headers, passed on
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file, contextlib.suppress(ClientGoneError):
            async with gone_while(receive):
                await self.stream_response(send)


async def _pieces(file: io.FileIO, first: bytes, rest: int | None) -> AsyncIterator[bytes]:
    """``first``, then ``rest`` bytes from where the file stands; None: all that there is."""
    piece = first
    while piece:
        yield piece
        wanted = _CHUNK if rest is None else min(_CHUNK, rest)
        if not wanted:
            return
        piece = await asyncio.to_thread(file.read, wanted) or b""
        rest = None if rest is None else rest - len(piece)


def _open(path: str) -> _Opened:
    try:
        # Non-blocking, for named pipes: nobody may be at the other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise HttpError(404, f"path '{path}' does not exist") from None
    except OSError as error:
        raise HttpError(500, f"error opening file '{path}': {describe('open', path, error)}") from error
    facts = os.fstat(descriptor)
    if stat.S_ISDIR(facts.st_mode):
        os.close(descriptor)
        raise HttpError(400, f"path '{path}' is a directory")
    file = io.FileIO(descriptor, "rb")
    return _Opened(path, file, int(facts.st_mtime), facts.st_size if stat.S_ISREG(facts.st_mode) else 0)


def _answer(request: Request, opened: _Opened) -> Response:
    file, name = opened.file, base_name(opened.path)
    headers = {
        "content-disposition": _disposition(name),
        "last-modified": formatdate(opened.modified, usegmt=True),
        "vary": "Accept-Encoding",
    }
    if not opened.size:
        first = file.read(_CHUNK) or b""
        return _FileResponse(file, first, None, headers=headers, media_type=content_type(name, first))
    headers["accept-ranges"] = "bytes"
    if not_modified(request.headers, opened.modified):
        file.close()
        return Response(status_code=304, headers=headers)
    try:
        part = requested_range(request.headers, opened.size, opened.modified)
    except UnsatisfiableRangeError:
        file.close()
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{opened.size}"})
    media_type = content_type(name, os.pread(file.fileno(), 512, 0))
    length = opened.size
    if part is not None:
        length = part.length
        headers["content-range"] = part.header(opened.size)
        file.seek(part.start)
    headers["content-length"] = str(length)
    # The first piece on the event loop: a small file is then read without a change of thread.
    first = file.read(min(length, _CHUNK)) or b""
    return _FileResponse(
        file,
        first,
        length - len(first),
        status_code=206 if part else 200,
        headers=headers,
        media_type=media_type,
    )


def _disposition(name: str) -> str:
    if name.isascii() and name.isprintable():
        plain = all(letter.isalnum() or letter in "!#$%&'*+-.^_`|~" for letter in name)
        quoted = name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return f"inline; filename={quoted}"
    return f"inline; filename*=utf-8''{quote(os.fsencode(name), safe='')}"


def _require_identity(accepted: str) -> None:
    """Content goes out as it is; refuse the rare client that forbids that."""
    for item in accepted.lower().split(","):
        coding, _, parameters = item.partition(";")
        weight = parameters.replace(" ", "").removeprefix("q=") or "1"
        try:
            forbidden = float(weight) == 0
        except ValueError:
            raise HttpError(406, f"error parsing Accept-Encoding: invalid quality value {weight!r}") from None
        if forbidden and coding.strip() == "identity":
            raise HttpError(406, "error parsing Accept-Encoding: no acceptable encoding, supported: identity")
