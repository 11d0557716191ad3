"""How often a silent stream shows that it is alive."""

from __future__ import annotations

import math

from ..connect import Call

_DEFAULT_SECONDS = 90.0
_LEAST_SECONDS = 0.1


def keepalive_interval(call: Call) -> float:
    """Seconds of silence after which a keepalive is due, from ``Keepalive-Ping-Interval``.

    Less than a tenth of a second would be nothing but load.
    """
    try:
        seconds = float(call.headers.get("keepalive-ping-interval", ""))
    except ValueError:
        return _DEFAULT_SECONDS
    return max(seconds, _LEAST_SECONDS) if 0 < seconds < math.inf else _DEFAULT_SECONDS
