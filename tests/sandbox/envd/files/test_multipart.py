"""Forms, byte by byte: what is a file, what its name is, and what is no form."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Sandbox
from e2b.sandbox.filesystem.filesystem import WriteEntry
from hypothesis import given
from hypothesis import strategies as st

from kruise_agents.sandbox.envd.errors import HttpError
from kruise_agents.sandbox.envd.files.multipart import read_form
from kruise_agents.sandbox.envd.files.spool import IN_MEMORY, Spool
from support.mutations import broken, times

TYPE = "multipart/form-data; boundary=b"
FORM = (
    b'preamble\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="one"\r\nX-More: 1\r\n\r\n1\r\n--c\r\n'
    b'\r\n--b\r\nContent-Disposition: form-data; name="other"; filename="x"\r\n\r\nignored'
    b'\r\n--b\r\ncontent-disposition:form-data;filename="two";name=file\r\n\r\n'
    b"\r\n--b--\r\nepilogue"
).removeprefix(b"preamble\r\n")


def read(body: bytes, *cuts: int, content_type: str = TYPE) -> list[tuple[str | None, bytes]]:
    """Names and contents of the files in a body that arrives in pieces."""

    async def pieces() -> AsyncIterator[bytes]:
        places = [0, *sorted(cuts), len(body)]
        for start, end in itertools.pairwise(places):
            if start < end:
                yield body[start:end]

    async def main() -> list[tuple[str | None, bytes]]:
        with Spool() as spool:
            parts = await read_form(content_type, pieces(), spool)
            return [(part.filename, await content(part.content)) for part in parts]

    return asyncio.run(main())


async def content(piece: Any) -> bytes:
    descriptor = os.memfd_create("content")
    try:
        await piece.copy_to(descriptor)
        return os.pread(descriptor, piece.size + 1, 0)
    finally:
        os.close(descriptor)


def named(filename: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="file"; filename=' + filename + b"\r\n\r\nx\r\n--b--\r\n"


@given(st.lists(st.integers(0, len(FORM)), max_size=8))
def test_it_does_not_matter_how_a_form_is_cut(cuts: list[int]) -> None:
    assert read(FORM, *cuts) == [("one", b"1\r\n--c\r\n"), ("two", b"")]


def test_a_form_may_arrive_byte_by_byte() -> None:
    assert read(FORM, *range(len(FORM))) == [("one", b"1\r\n--c\r\n"), ("two", b"")]


def test_files_lie_one_behind_the_other_in_the_spool_whatever_their_size() -> None:
    big = os.urandom(IN_MEMORY + 1)
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + part + b"\r\n"
        for part in (b"small", big, b"", b"end")
    )
    assert [part for _, part in read(body + b"--b--", 700_000)] == [b"small", big, b"", b"end"]


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        (b'"a/b/c.txt"', "a/b/c.txt"),
        (b'"/abs/olute"', "/abs/olute"),
        (b"token", "token"),
        (b'"semi;colon; name=other"', "semi;colon; name=other"),
        (b'"%22quoted%22"', '"quoted"'),
        (b'"\\"quoted\\""', '"quoted"'),
        (b'"back\\\\slash"', "back\\slash"),
        (b'"browsers\\back"', "browsers\\back"),
        (b'"C:\\\\x\\\\y"', "C:\\x\\y"),
        (b'"\\\\\\\\server\\\\x"', "\\\\server\\x"),
        (b'"ends with\\\\"', "ends with\\"),
        (b'"100%"', "100%"),
        (b'"%20%7F%2F"', "%20%7F%2F"),
        (b'"%0A%09%1F"', "\n\t\x1f"),
        ('"ünï☃😀"'.encode(), "ünï☃😀"),
        (b'"\xff"', "\udcff"),
        (b'""', None),
        (b"", None),
    ],
)
def test_a_filename_is_taken_whole(filename: bytes, name: str | None) -> None:
    assert read(named(filename)) == [(name, b"x")]


@times(3)
@given(
    broken([FORM], [b"\r\n--b", b"--", b'"', b"\\", b"%22", b"\r\n\r\n", b";", b"\0", b""]), st.integers(0, len(FORM))
)
def test_a_broken_form_is_a_form_or_refused(data: bytes, cut: int) -> None:
    with contextlib.suppress(HttpError):
        for name, piece in read(data, min(cut, len(data))):
            assert piece in data
            assert name is None or isinstance(name, str)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_names_as_httpx_writes_them_come_back(name: str) -> None:
    request = httpx.Request("POST", "http://x", files=[("file", (name, b"x"))])
    found = read(request.read(), content_type=request.headers["content-type"])
    written = name
    for number in (0x22, *range(0x1B), *range(0x1C, 0x20)):
        written = written.replace(f"%{number:02X}", chr(number))  # the one thing that httpx makes ambiguous
    assert found == [(written, b"x")]


def test_the_boundary_may_be_quoted_and_stand_anywhere() -> None:
    body = named(b'"f"').replace(b"--b", b"--a b")
    assert read(body, content_type='multipart/form-data; charset=utf-8; Boundary="a b"') == [("f", b"x")]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", FORM),
        ("multipart/form-data; boundary=", FORM),
        ("multipart/form-data; boundary=" + "x" * 300, FORM),
        (TYPE, b""),
        (TYPE, b"no form at all"),
        (TYPE, FORM[:-20]),
        (TYPE, b"--b\r\n" + b"X: 1\r\n" * 100 + b"\r\n\r\n--b--"),
    ],
    ids=["no boundary", "empty boundary", "long boundary", "empty", "text", "not closed", "many headers"],
)
def test_what_is_no_form_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(HttpError):
        read(body, content_type=content_type)


def test_hundreds_of_files_of_the_sdk_arrive_in_one_request(sandbox: Sandbox, served_envd: Any) -> None:
    contents = {f"d{number % 7}/f{number}": os.urandom(number * 100) for number in range(500)}
    written = sandbox.files.write_files([WriteEntry(path=path, data=data) for path, data in contents.items()])
    assert [one.path for one in written] == [f"{served_envd.home}/{path}" for path in contents]
    assert {path: (served_envd.home / path).read_bytes() for path in contents} == contents


def test_a_form_of_many_large_files_needs_one_descriptor(served_envd: Any, peak_descriptors: Callable[[], int]) -> None:
    files = [("file", (f"f{number}", b"x" * (IN_MEMORY + 1))) for number in range(40)]
    assert httpx.post(served_envd.url + "/files", files=files, timeout=60).status_code == 200
    assert all((served_envd.home / f"f{number}").stat().st_size == IN_MEMORY + 1 for number in range(40))
    assert peak_descriptors() < 30


@pytest.fixture
def peak_descriptors(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """A function that returns the highest number of descriptors that were open in addition to the first ones."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    most = 0
    real = os.open

    def counting_open(*arguments: Any, **more: Any) -> int:
        nonlocal most
        most = max(most, len(list(Path("/proc/self/fd").iterdir())) - before)
        return real(*arguments, **more)

    monkeypatch.setattr(os, "open", counting_open)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > before + 100
    return lambda: most
