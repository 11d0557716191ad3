"""Go's durations, in which OpenKruise's extensions are written: ``300ms``, ``1.5h``, ``2h45m``. Pure."""

from __future__ import annotations

import re

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)"
_WHOLE = re.compile(rf"([+-]?)((?:{_PART})+)", re.ASCII)
_LONGEST = 2**63 * 1e-9


def read_duration(text: str) -> float:
    """The duration in seconds.

    Raises:
        ValueError: it is none; the text says what one looks like.
    """
    if text.lstrip("+-") == "0" and len(text) <= 2:
        return 0.0
    match = _WHOLE.fullmatch(text)
    if match is None:
        raise ValueError("a duration is a number with a unit, or several, as 90s, 1.5h or 2h45m")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, match[2], re.ASCII))
    if seconds >= _LONGEST:
        raise ValueError("it is longer than 292 years")
    return -seconds if match[1] == "-" else seconds
