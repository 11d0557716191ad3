"""The end of a chunked body, which may arrive in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kruise_agents.manager.http.chunked_body import ChunkedBody


def body_of(chunks: list[bytes], trailers: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk) + b"0\r\n" + trailers + b"\r\n"


@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([b"\r\n", b"0\r\n\r\n", b"5\r\n"]), max_size=5),
    st.sampled_from([b"", b"X: y\r\n", b"X: y\r\nZ: 0\r\n"]),
    st.lists(st.integers(1, 12), max_size=40),
    st.binary(max_size=20),
)
def test_the_end_is_found_in_any_pieces(chunks: list[bytes], trailers: bytes, sizes: list[int], behind: bytes) -> None:
    body = body_of(chunks, trailers)
    data, finder, seen = body + behind, ChunkedBody(), 0
    for size in [*sizes, len(data)]:
        piece = data[seen : seen + size]
        end = finder.end_in(piece)
        if end is not None:
            assert seen + end == len(body)
            return
        seen += len(piece)
    pytest.fail(f"no end in {data!r}")


@pytest.mark.parametrize("size", [b"0x0", b"+0", b" 0", b"0 ", b"", b"0_0", b"-0", b"0" * 17])
def test_a_malformed_size_has_no_end(size: bytes) -> None:
    assert ChunkedBody().end_in(size + b"\r\n\r\n") is None


@pytest.mark.parametrize("body", [b"0\n\n", b"0\r\n\n", b"0\n\r\n"])
def test_a_bare_line_feed_ends_nothing(body: bytes) -> None:
    assert ChunkedBody().end_in(body) is None
