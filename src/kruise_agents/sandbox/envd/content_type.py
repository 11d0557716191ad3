"""The media type of a download."""

from __future__ import annotations

import mimetypes

_OCTETS = "application/octet-stream"
_TEXT = "text/plain; charset=utf-8"
# What may stand in a text, beside everything from the blank upwards.
_TEXT_CONTROLS = frozenset(b"\t\n\f\r\x1b")


def content_type(name: str, beginning: bytes) -> str:
    """By the extension of the name; without a known one, by the first bytes."""
    kind, encoding = mimetypes.guess_type(name)
    if encoding is not None:
        return f"application/{encoding}" if encoding == "gzip" else _OCTETS
    if kind is None:
        return _TEXT if _is_text(beginning) else _OCTETS
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def _is_text(beginning: bytes) -> bool:
    return all(byte >= 0x20 or byte in _TEXT_CONTROLS for byte in beginning[:512])
