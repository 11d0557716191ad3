"""Well-formed bytes that are broken in a few places, for fuzz tests."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st


def times(factor: float) -> settings:
    """Return settings with ``factor`` times as many examples as usual. `make fuzz` tries more of all of them."""
    assert settings.default is not None
    return settings(max_examples=round(factor * settings.default.max_examples), deadline=None)


def broken(
    whole: Sequence[bytes], pieces: Sequence[bytes] = (b"", b"\r\n", b"\0", b"\xff")
) -> st.SearchStrategy[bytes]:
    """Return a strategy of ``whole`` texts of which parts are cut out, repeated, or replaced by other bytes."""

    @st.composite
    def strategy(draw: st.DrawFn) -> bytes:
        data = draw(st.sampled_from(whole))
        for _ in range(draw(st.integers(0, 4))):
            start, length = draw(st.integers(0, len(data))), draw(st.integers(0, 12))
            put = draw(st.sampled_from([*pieces, data[start : start + length] * 2]) | st.binary(max_size=3))
            data = data[:start] + put + data[start + length :]
        return data

    return strategy()


def flipped(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy of ``whole`` with one to three bits changed, in bytes that are not zero."""
    places = [place for place, byte in enumerate(whole) if byte]

    def change(bits: list[tuple[int, int]]) -> bytes:
        data = bytearray(whole)
        for place, bit in bits:
            data[place] ^= 1 << bit
        return bytes(data)

    return st.lists(st.tuples(st.sampled_from(places), st.integers(0, 7)), min_size=1, max_size=3).map(change)
