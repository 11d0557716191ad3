"""Messages with values that UTF-8 or JSON cannot represent: lone surrogates, NaN and infinity.

With jupyter_client's own packer, a program that prints a surrogate would lose the output around it, and the user would
see a traceback from the kernel's own code. NaN would become the text ``nan``, with a warning in the user's cell.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from numbers import Real
from typing import Any, TypeAlias

from jupyter_client.jsonutil import json_default

Packer: TypeAlias = Callable[[Any], bytes]

_SURROGATE = re.compile("[\ud800-\udfff]")


def tolerant(pack: Packer) -> Packer:
    """Return a packer like ``pack`` that replaces surrogates by U+FFFD, and NaN and infinity by None.

    ``orjson`` turns NaN and infinity into None too. The kernel of E2B's template packs messages with ``orjson``.
    """

    def pack_tolerantly(message: Any) -> bytes:
        try:
            return json.dumps(message, default=json_default, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError):
            return pack(_replaced(message))

    return pack_tolerantly


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_replaced(key): _replaced(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item) for item in value]
    if isinstance(value, Real) and (value != value or value in (math.inf, -math.inf)):
        return None
    return value
