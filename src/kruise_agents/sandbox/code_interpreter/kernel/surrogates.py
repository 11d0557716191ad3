"""Messages that hold half a character: lone surrogates, which no encoding has a form for.

A program that prints one would lose what else it printed with it, and see a traceback of the kernel's own code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

__all__ = ["REPLACEMENT", "Packer", "replaced", "tolerant"]

Packer: TypeAlias = Callable[[Any], bytes]

REPLACEMENT = "\ufffd"
_SURROGATE = re.compile("[\ud800-\udfff]")


def tolerant(pack: Packer) -> Packer:
    """A packer like ``pack`` (jupyter_client's, of a session) that never fails for the sake of a surrogate."""

    def pack_tolerantly(message: Any) -> bytes:
        try:
            packed = pack(message)
            # Bytes that were no text when Python read them pass as they were, and are still no text.
            packed.decode()
        except UnicodeError:
            return pack(replaced(message))
        return packed

    return pack_tolerantly


def replaced(value: Any) -> Any:
    """``value`` with U+FFFD for each surrogate in its texts."""
    if isinstance(value, str):
        return _SURROGATE.sub(REPLACEMENT, value)
    if isinstance(value, dict):
        return {replaced(key): replaced(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(item) for item in value]
    return value
