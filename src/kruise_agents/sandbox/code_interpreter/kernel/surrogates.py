"""Messages with lone surrogates, which UTF-8 cannot represent.

Without this module, a program that prints a surrogate would lose the output around it, and the user would see a
traceback from the kernel's own code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

Packer: TypeAlias = Callable[[Any], bytes]

_SURROGATE = re.compile("[\ud800-\udfff]")


def tolerant(pack: Packer) -> Packer:
    """Return a packer like ``pack`` that replaces lone surrogates in a message that ``pack`` cannot turn into UTF-8."""

    def pack_tolerantly(message: Any) -> bytes:
        try:
            packed = pack(message)
            # jupyter_client encodes surrogates that stand for undecodable bytes as these bytes, which are no UTF-8.
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
