"""The header that limits how long a call may take."""

from __future__ import annotations

import math

from .errors import Code, ConnectError

HEADER = "connect-timeout-ms"


def parse_timeout(value: str | None) -> float | None:
    """The limit in seconds that a ``Connect-Timeout-Ms`` header sets, or None for no limit.

    Decimals (``2500.0``) are taken as well: e2b 2.8.0 multiplies the caller's seconds and sends the product.

    Raises:
        ConnectError: ``invalid_argument``: not a number of milliseconds.
    """
    if value is None:
        return None
    try:
        milliseconds = float(value)
    except ValueError:
        milliseconds = math.nan
    if not (0 <= milliseconds < math.inf):
        raise ConnectError(
            Code.INVALID_ARGUMENT, f"protocol error: invalid Connect-Timeout-Ms {value!r}: not milliseconds"
        )
    return milliseconds / 1000 if milliseconds else None
