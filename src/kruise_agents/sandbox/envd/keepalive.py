"""The keepalive interval of a silent stream."""

from __future__ import annotations

import math

from ..connect import Call

_DEFAULT_SECONDS = 90.0
_LEAST_SECONDS = 0.1  # a shorter interval only adds load


def keepalive_interval(call: Call) -> float:
    """Return the seconds of silence before a keepalive: the header ``Keepalive-Ping-Interval``, or else the default."""
    try:
        seconds = float(call.headers.get("keepalive-ping-interval", ""))
    except ValueError:
        return _DEFAULT_SECONDS
    return max(seconds, _LEAST_SECONDS) if 0 < seconds < math.inf else _DEFAULT_SECONDS
