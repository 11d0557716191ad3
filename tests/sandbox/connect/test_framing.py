"""Framing, as bytes: the same frames come out however the network cuts them."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kruise_agents.sandbox.connect import Code, ConnectError
from kruise_agents.sandbox.connect.framing import (
    COMPRESSED,
    END_OF_STREAM,
    MESSAGE,
    Envelope,
    EnvelopeDecoder,
    request_payload,
)

envelopes = st.lists(st.builds(Envelope, st.integers(0, 255), st.binary(max_size=300)), max_size=6)


@pytest.mark.parametrize(
    ("flags", "payload", "prefix"),
    [
        (MESSAGE, b'{"event":{"start":{"pid":42}}}', "000000001e"),
        (MESSAGE, b'{"event":{"data":{"stdout":"aGkK"}}}', "0000000024"),
        (END_OF_STREAM, b"{}", "0200000002"),
    ],
)
def test_frames_look_as_the_protocol_says(flags: int, payload: bytes, prefix: str) -> None:
    assert Envelope(flags, payload).encode() == bytes.fromhex(prefix) + payload


@given(envelopes, st.lists(st.integers(0, 2000)))
def test_any_split_of_the_bytes_gives_the_same_frames(frames: list[Envelope], cuts: list[int]) -> None:
    wire = b"".join(frame.encode() for frame in frames)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    decoder = EnvelopeDecoder()
    found = [frame for start, end in pairwise(edges) for frame in decoder.feed(wire[start:end])]
    decoder.finish()
    assert found == frames


@given(envelopes.filter(bool), st.data())
def test_a_cut_off_body_is_noticed_and_whole_frames_before_it_are_kept(
    frames: list[Envelope], data: st.DataObject
) -> None:
    wire = b"".join(frame.encode() for frame in frames)
    last = len(frames[-1].encode())
    missing = data.draw(st.integers(1, last - 1))
    decoder = EnvelopeDecoder()
    assert list(decoder.feed(wire[:-missing])) == frames[:-1]
    with pytest.raises(ConnectError, match="ends inside an envelope") as raised:
        decoder.finish()
    assert raised.value.code is Code.INVALID_ARGUMENT


@given(st.lists(st.binary(max_size=12), max_size=6))
def test_any_bytes_are_frames_or_a_protocol_error(pieces: list[bytes]) -> None:
    decoder = EnvelopeDecoder()
    with contextlib.suppress(ConnectError):
        found = [request_payload(frame) for piece in pieces for frame in decoder.feed(piece)]
        decoder.finish()
        assert b"".join(Envelope(MESSAGE, payload).encode() for payload in found) == b"".join(pieces)


@pytest.mark.parametrize(
    ("flags", "code"),
    [(COMPRESSED, Code.INTERNAL), (END_OF_STREAM, Code.INVALID_ARGUMENT), (0x80, Code.INVALID_ARGUMENT)],
)
def test_clients_may_only_send_plain_messages(flags: int, code: Code) -> None:
    with pytest.raises(ConnectError, match="protocol error") as raised:
        request_payload(Envelope(flags, b"{}"))
    assert raised.value.code is code
