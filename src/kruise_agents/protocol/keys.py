"""The encoded form of API keys. Every SDK accepts this form, and anybody can decode it: keep it as secret as the key.

e2b 2.25.0 ... 2.45.1 accept only keys that are ``e2b_`` followed by lower-case hex digits. OpenKruise's keys can be any
text, so OpenKruise's manager accepts the encoded form of each key in place of the key.
"""

from __future__ import annotations

import hashlib
import hmac
import re

_PREFIX = "e2b_"
_MAGIC = "6f6b616701"
"""The letters ``okag`` and the version 01, in hexadecimal."""
_CHECKSUM_CONTEXT = b"openkruise-agents/e2b-key-compat/v1"
_CHECKSUM_BYTES = 8
_MAX_BYTES = 1_073_741_806
_ENCODED = re.compile(rf"{_PREFIX}{_MAGIC}(?P<length>[0-9a-f]{{8}})(?P<body>[0-9a-f]*)(?P<checksum>[0-9a-f]{{16}})")


def encode_key(raw: str | bytes) -> str:
    """Return the encoded form of a key: 38 characters plus two for each byte of the key. Text becomes UTF-8 bytes.

    Raises:
        ValueError: The key is too long for the form, or is text with a lone surrogate.
    """
    data = raw.encode() if isinstance(raw, str) else raw
    if len(data) > _MAX_BYTES:
        raise ValueError(f"a key of {len(data)} bytes is too long to encode; at most {_MAX_BYTES}")
    return f"{_PREFIX}{_MAGIC}{len(data):08x}{data.hex()}{_checksum(data).hex()}"


def decode_key(key: str) -> bytes | None:
    """Decode an encoded key and return the original key. Return None for other text, such as a key from E2B."""
    match = _ENCODED.fullmatch(key)
    if match is None:
        return None
    length = int(match["length"], 16)
    if length > _MAX_BYTES or len(match["body"]) != 2 * length:
        return None
    data = bytes.fromhex(match["body"])
    return data if hmac.compare_digest(_checksum(data), bytes.fromhex(match["checksum"])) else None


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(_CHECKSUM_CONTEXT + data).digest()[:_CHECKSUM_BYTES]
