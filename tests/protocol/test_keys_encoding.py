"""The compatible form of API keys: fixed vectors, what is not one, and the way there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kruise_agents import keys
from kruise_agents.protocol.keys import decode_key, encode_key

VECTORS: list[tuple[str | bytes, str]] = [
    ("some-api-key", "e2b_6f6b6167010000000c736f6d652d6170692d6b657947a2e62d3ce60d6d"),
    ("admin-987654321", "e2b_6f6b6167010000000f61646d696e2d393837363534333231633752d5d325a4ab"),
    (
        "11111111-2222-3333-4444-555555555555",
        "e2b_6f6b6167010000002431313131313131312d323232322d333333332d343434342d353535353535353535353535b1064cc3165dfab2",
    ),
    (
        "550e8400-e29b-41d4-a716-446655440000",
        "e2b_6f6b6167010000002435353065383430302d653239622d343164342d613731362d3434363635353434303030302696073838286127",
    ),
    ("raw-key", "e2b_6f6b616701000000077261772d6b657911f901444b16d9c2"),
    ("key-with-中", "e2b_6f6b6167010000000c6b65792d776974682de4b8ad7813601f17b74000"),
    ("e2b_abc123", "e2b_6f6b6167010000000a6532625f61626331323315edd37e60f723ae"),
    ("", "e2b_6f6b61670100000000425929dd6afb855b"),
    (b"\x00\x01\x02\xff", "e2b_6f6b61670100000004000102ff520b615ff4cdfec0"),
]

NOT_ENCODED = [
    "raw-key",
    "",
    "e2b_",
    "e2b_abc123",
    "E2B_abc123",
    "e2b_ABC123",
    "e2b_not-hex",
    "e2b_0000000001000000077261772d6b657911f901444b16d9c2",
    "e2b_6f6b616702000000077261772d6b657911f901444b16d9c2",
    "e2b_6f6b616701000000087261772d6b657911f901444b16d9c2",
    "e2b_6f6b616701000000077261772d6b657911f901444b16d9c0",
    "e2b_6F6B616701000000077261772D6B657911F901444B16D9C2",
    "E2B_6F6B616701000000077261772D6B657911F901444B16D9C2",
    "e2b_6f6b616701000000077261772d6b657911f901444b16d9c200",
    "e2b_6f6b616701400000007261772d6b657911f901444b16d9c2",
    "e2b_6f6b616701000000077261772d6b657911f901444b16d9c2\n",
    "e2b_6f6b6167010000000٧7261772d6b657911f901444b16d9c2",
]


@pytest.mark.parametrize(("raw", "encoded"), VECTORS)
def test_vectors(raw: str | bytes, encoded: str) -> None:
    data = raw.encode() if isinstance(raw, str) else raw
    assert encode_key(raw) == encoded
    assert len(encoded) == 38 + 2 * len(data)
    assert decode_key(encoded) == data


@pytest.mark.parametrize("key", NOT_ENCODED)
def test_what_is_not_encoded_stays_a_raw_key(key: str) -> None:
    assert decode_key(key) is None


@given(st.one_of(st.text(), st.binary()))
def test_every_key_survives_the_way_there_and_back(raw: str | bytes) -> None:
    encoded = encode_key(raw)
    assert encoded.startswith("e2b_")
    assert set(encoded[4:]) <= set("0123456789abcdef")
    assert decode_key(encoded) == (raw.encode() if isinstance(raw, str) else raw)


@given(st.binary(max_size=40), st.data())
def test_one_changed_digit_is_noticed(raw: bytes, data: st.DataObject) -> None:
    encoded = encode_key(raw)
    place = data.draw(st.integers(4, len(encoded) - 1))
    digit = data.draw(st.sampled_from([one for one in "0123456789abcdef" if one != encoded[place]]))
    assert decode_key(encoded[:place] + digit + encoded[place + 1 :]) is None


def test_the_public_module_hands_the_same_functions_on() -> None:
    assert (keys.encode_key, keys.decode_key) == (encode_key, decode_key)
