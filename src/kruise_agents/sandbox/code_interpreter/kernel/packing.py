"""Messages with values that UTF-8 or JSON cannot represent: lone surrogates, NaN and infinity.

With jupyter_client's own packer, a program that prints a surrogate would lose the output around it, and the user would
see a traceback from the kernel's own code. NaN would become the text ``nan``, with a warning in the user's cell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from jupyter_client.jsonutil import json_default

Packer: TypeAlias = Callable[[Any], bytes]

_SURROGATE = re.compile("[\ud800-\udfff]")


def tolerant(pack: Packer) -> Packer:
    """Return a packer like ``pack`` that replaces surrogates by U+FFFD, and NaN and infinity by null.

    ``orjson`` turns NaN and infinity into null too. The kernel of E2B's template packs messages with ``orjson``.
    """

    def pack_tolerantly(message: Any) -> bytes:
        try:
            text = _dumps(message)
            if "NaN" in text or "Infinity" in text:  # perhaps in a string, which stays as it is
                text = _dumps(json.loads(text, parse_constant=lambda _: None))
        except (TypeError, ValueError):
            return pack(message)
        try:
            return text.encode()
        except UnicodeEncodeError:
            return _SURROGATE.sub("\ufffd", text).encode()

    return pack_tolerantly


def _dumps(message: Any) -> str:
    return json.dumps(message, default=json_default, ensure_ascii=False)
