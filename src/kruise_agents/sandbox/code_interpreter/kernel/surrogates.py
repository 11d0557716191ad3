"""Messages with lone surrogates, which no encoding can represent.

Without this, a program that prints a surrogate would lose the output around it, and see a traceback of the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

Packer: TypeAlias = Callable[[Any], bytes]

_SURROGATE = re.compile("[\ud800-\udfff]")


def tolerant(pack: Packer) -> Packer:
    """Return ``pack``, the packer of a jupyter_client session, made to replace lone surrogates."""

    def pack_tolerantly(message: Any) -> bytes:
        try:
            packed = pack(message)
            # Surrogates that stand for undecodable bytes are packed as these bytes, which are still no text.
            packed.decode()
        except UnicodeError:
            return pack(_replaced(message))
        return packed

    return pack_tolerantly


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_replaced(key): _replaced(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item) for item in value]
    return value
