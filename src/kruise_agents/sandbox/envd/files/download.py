"""The route ``GET /files``: downloads of whole files and of ranges, with ``If-Modified-Since`` and ``If-Range``.

Source: RFC 9110, sections 13 and 14. A request for several ranges gets the whole file, which the RFC allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import mimetypes
import os
import re
import stat
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ...connect.body import ClientGoneError, gone_while
from ..errors import HttpError, describe
from ..paths import base_name
from .encodings import Coding, chosen_coding, gzipped

# The first bytes are read on the event loop, which saves a thread switch for small files. A thread reads the rest.
# Small files are read before the response begins, because files in /proc and /sys have other sizes than they state.
_FIRST = 256 * 1024
_CHUNK = 1024 * 1024
# Headers that ask for a part of the content, or for the content on a condition.
_CONDITIONS = ("range", "if-range", "if-modified-since", "if-unmodified-since", "if-match", "if-none-match")
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)
_OCTETS = "application/octet-stream"
_TEXT = "text/plain; charset=utf-8"
# The bytes that a text may contain; of the control characters, only these five.
_IN_TEXT = b"\t\n\f\r\x1b" + bytes(range(0x20, 0x100))


def download(request: Request, path: str) -> Response:
    """Return the response to a GET or HEAD of the file at ``path``. Raise HttpError if the file cannot be read."""
    coding = chosen_coding(request.headers.get("accept-encoding", ""))
    if coding == "gzip" and any(name in request.headers for name in _CONDITIONS):
        coding = "identity"  # ranges and times refer to the uncompressed content
    opened = _open(path)
    try:
        return _answer(request, opened, coding)
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
    size: int  # as the file system states it; 0 if the file is no regular file


class _FileResponse(StreamingResponse):
    """A response that sends the pieces of a file at the client's pace, and closes the file at the end."""

    def __init__(self, file: io.FileIO, pieces: AsyncIterator[bytes], **options: object) -> None:
        super().__init__(pieces, **options)  # type: ignore[arg-type]  # status and headers, passed on
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file, contextlib.suppress(ClientGoneError):
            if scope["method"] == "HEAD":
                # The server would drop the body, but the body may be endless.
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b""})
                return
            async with gone_while(receive):
                await self.stream_response(send)


async def _pieces(file: io.FileIO, first: bytes, rest: int | None) -> AsyncIterator[bytes]:
    """Yield the bytes ``first``, then up to ``rest`` further bytes of the file. None: up to the end of the file."""
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
        # Non-blocking, because nobody may be at the other end of a named pipe. A terminal must not become the program's
        # own, because the end of this terminal would end the program.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
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


def _answer(request: Request, opened: _Opened, coding: Coding) -> Response:
    file, name = opened.file, base_name(opened.path)
    headers = {
        "content-disposition": _disposition(name),
        "last-modified": formatdate(opened.modified, usegmt=True),
        "vary": "Accept-Encoding",
    }
    content, size = None, opened.size
    modified: int | None = opened.modified
    if size <= _FIRST:
        content = _read(file, size or _FIRST)
        if not size and len(content) == _FIRST:
            return _whole(file, content, coding, headers, _content_type(name, content))
        size = len(content)
        if size != opened.size:  # the file is made when it is read, and its times say nothing about its content
            modified = None
            del headers["last-modified"]
    headers["accept-ranges"] = "bytes"
    if _not_modified(request.headers, modified):
        file.close()
        return Response(status_code=304, headers=headers)
    # As in envd, an empty file is sent whole: some clients ask for a range each time.
    part = _requested_range(request.headers, size, modified) if size else None
    if part is not None and not part:
        file.close()
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{size}"})
    media_type = _content_type(name, os.pread(file.fileno(), 512, 0) if content is None else content)
    if coding == "gzip":
        return _whole(file, _read(file, _FIRST) if content is None else content, coding, headers, media_type)
    sent = range(size) if part is None else part
    if part is not None:
        headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    headers["content-length"] = str(len(sent))
    if content is None:
        file.seek(sent.start)
        first = _read(file, min(len(sent), _FIRST))
    else:
        first = content[sent.start : sent.stop]
    status = 206 if part else 200
    if len(first) == len(sent):
        file.close()
        return Response(first, status, headers, media_type)
    pieces = _pieces(file, first, len(sent) - len(first))
    return _FileResponse(file, pieces, status_code=status, headers=headers, media_type=media_type)


def _read(file: io.FileIO, size: int) -> bytes:
    """Return up to ``size`` bytes, fewer only at the end of the file or if a pipe has no more bytes now."""
    content = file.read(size) or b""
    while len(content) < size and (more := file.read(size - len(content))):
        content += more
    return content


def _whole(file: io.FileIO, first: bytes, coding: Coding, headers: dict[str, str], media_type: str) -> Response:
    """Return the response with the whole file, whose length may be unknown and whose first bytes are ``first``."""
    pieces = _pieces(file, first, None)
    if coding == "gzip":
        headers = {name: value for name, value in headers.items() if name != "accept-ranges"}
        headers["content-encoding"] = coding
        pieces = gzipped(pieces)
    return _FileResponse(file, pieces, headers=headers, media_type=media_type)


def _requested_range(headers: Mapping[str, str], size: int, modified: int | None) -> range | None:
    """Return the range of bytes that a request names: None for the whole file, empty if the file has no such byte."""
    match = _RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    condition = headers.get("if-range")
    if condition is not None and (modified is None or _timestamp(condition) != modified):
        return None
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    return range(start, end)


def _not_modified(headers: Mapping[str, str], modified: int | None) -> bool:
    """Return True if the file is unchanged since ``If-Modified-Since`` and the request has no ``If-None-Match``."""
    since = _timestamp(headers.get("if-modified-since", ""))
    return since is not None and modified is not None and "if-none-match" not in headers and modified <= since


def _timestamp(date: str) -> int | None:
    try:
        return int(parsedate_to_datetime(date).timestamp())
    except (TypeError, ValueError, OverflowError):
        return None


def _disposition(name: str) -> str:
    if name.isascii() and name.isprintable():
        plain = all(letter.isalnum() or letter in "!#$%&'*+-.^_`|~" for letter in name)
        quoted = name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return f"inline; filename={quoted}"
    return f"inline; filename*=utf-8''{quote(os.fsencode(name), safe='')}"


def _content_type(name: str, beginning: bytes) -> str:
    """Return the media type for the extension of ``name`` or, if the extension is unknown, for the first bytes."""
    kind, encoding = mimetypes.guess_type(name)
    if encoding is not None:
        return f"application/{encoding}" if encoding == "gzip" else _OCTETS
    if kind is None:
        return _TEXT if _is_text(beginning) else _OCTETS
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def _is_text(beginning: bytes) -> bool:
    return not beginning[:512].translate(None, _IN_TEXT)
