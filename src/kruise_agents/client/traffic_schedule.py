"""When a traffic access token is refreshed, and how long to wait after a failure. Pure functions.

Times are seconds since the epoch; the numbers are those of OpenKruise's own client.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from dataclasses import dataclass
from typing import Any, TypeGuard

_LONGEST_AHEAD = 300.0
_SHORTEST_AHEAD = 60.0
_AHEAD_SHARE = 0.2
_JITTER_SHARE = 0.1
_BACKOFF = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says about its own times."""

    exp: float
    iat: float | None = None


def read_claims(token: str) -> Claims | None:
    """The times in a JWT, whose signature is not looked at; None for an opaque token."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        payload = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return None
    if not isinstance(payload, dict):
        return None
    exp, iat = payload.get("exp"), payload.get("iat")
    return Claims(exp, iat) if _is_time(exp) and (iat is None or _is_time(iat)) else None


def refresh_time(exp: float, iat: float, random: float) -> float:
    """The moment from which a token is due for a refresh.

    Parameters:
        random: from 0 up to 1, so that many clients do not refresh together.
    """
    ahead = min(_LONGEST_AHEAD, max(_SHORTEST_AHEAD, _AHEAD_SHARE * max(0.0, exp - iat)))
    return exp - ahead - ahead * _JITTER_SHARE * random


def backoff(failures: int, retry_after: float | None) -> float:
    """Seconds to wait after that many failures in a row, at least what the server asked for."""
    return max(_BACKOFF[min(failures, len(_BACKOFF)) - 1], retry_after or 0.0)


def read_retry_after(text: str | None) -> float | None:
    """Seconds in a ``Retry-After`` header; None when it is missing or is no number of seconds."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _is_time(value: Any) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
