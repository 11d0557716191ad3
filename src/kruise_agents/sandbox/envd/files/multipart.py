"""The files in a body of type ``multipart/form-data``."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from ..errors import HttpError
from .spool import Piece, Spool

_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))', re.DOTALL)
# A backslash before any other character stands for itself. Browsers do not escape a backslash, httpx doubles it.
_QUOTED = re.compile(r'\\(["\\])')
# The percent escapes of httpx in a filename. httpx does not escape the percent sign, so a real ``%22`` in a name also
# becomes a quote. A client that needs ``%22`` in a name sends the query parameter ``path``.
_ESCAPE = re.compile("%(22|0[0-9A-F]|1[0-9AC-F])")
_FIELD = "file"


@dataclass(frozen=True, slots=True)
class FilePart:
    """A part with the name ``file``: its content, and its filename, which may contain slashes or be None."""

    filename: str | None
    content: Piece

    @property
    def required_filename(self) -> str:
        if self.filename is None:
            raise _broken("a file needs a filename or the path query parameter")
        return self.filename


async def read_form(content_type: str, content: AsyncIterable[bytes], spool: Spool) -> list[FilePart]:
    """Return the files of a form in order, with their content in ``spool``. Raise HttpError for an incomplete form."""
    boundary = _parameters(content_type).get("boundary")
    if not boundary:
        raise _broken("the Content-Type has no boundary")
    reader = _Reader(boundary, spool)
    async for chunk in content:
        reader.read(chunk)
        await spool.make_room()
    reader.finish()
    await spool.finish()
    return reader.parts


class _Reader:
    def __init__(self, boundary: str, spool: Spool) -> None:
        self.parts: list[FilePart] = []
        self._spool = spool
        self._closed = False
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = ""
        self._wanted = False
        self._filename: str | None = None
        self._start = 0
        try:
            self._parser = MultipartParser(
                boundary.encode("latin-1"),
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._take_header_name,
                    "on_header_value": self._take_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._take_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _broken(str(error)) from error

    def read(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            text = f"Invalid multipart data. {error}"
            if "header size" in text:
                text += ", probably by the filename: a path may have 4095 bytes"
            raise _broken(text) from error

    def finish(self) -> None:
        if not self._closed:
            raise _broken("it ended early, before its closing boundary")

    def _begin_part(self) -> None:
        self._disposition = ""

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value.decode("utf-8", "surrogateescape")
        self._header_name.clear()
        self._header_value.clear()

    def _end_headers(self) -> None:
        parameters = _parameters(self._disposition)
        self._wanted = parameters.get("name") == _FIELD
        self._filename = _unescaped(parameters["filename"]) if parameters.get("filename") else None
        self._start = self._spool.size

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted:
            self._spool.append(memoryview(data)[start:end])

    def _end_part(self) -> None:
        if self._wanted:
            content = Piece(self._spool, self._start, self._spool.size)
            self.parts.append(FilePart(self._filename, content))

    def _end(self) -> None:
        self._closed = True


def _parameters(header: str) -> dict[str, str]:
    return {
        name.lower(): _QUOTED.sub(r"\1", quoted) if quoted else plain
        for name, quoted, plain in _PARAMETER.findall(header)
    }


def _unescaped(name: str) -> str:
    """Decode the escapes that httpx writes into a filename, such as ``%22`` for a quote."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), name)


def _broken(text: str) -> HttpError:
    return HttpError(400, f"error parsing multipart form: {text}")
