"""What a create call says about the life of a sandbox: E2B's fields, and OpenKruise's metadata keys and headers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..sandboxes.lifetime import Lifetime
from .durations import read_duration
from .errors import ApiError
from .reading import Fields

MAX_TIMEOUT = 2_592_000
EXTENSION = "e2b.agents.kruise.io/"
NEVER_TIMEOUT = f"{EXTENSION}never-timeout"
RESERVE_PAUSED = f"{EXTENSION}reserve-paused-sandbox-duration"
LIFETIME_KEYS = frozenset({NEVER_TIMEOUT, RESERVE_PAUSED})
RESERVE_PAUSED_HEADER = "x-e2b-kruise-reserve-paused-sandbox-duration"
_FOREVER = "forever"


def read_lifetime(fields: Fields, metadata: Mapping[str, str], seconds: float) -> Lifetime:
    """The lifetime that a create call asks for.

    Raises:
        ApiError: 400, naming what cannot be.
    """
    pause_at_end = fields.flag("autoPause") is True
    keeps_memory = fields.flag("autoPauseMemory") is not False
    wakes = _wakes(fields.object("autoResume"))
    if not keeps_memory and not pause_at_end:
        raise ApiError(400, "autoPauseMemory=false only applies when autoPause is true.")
    if not keeps_memory and wakes:
        raise ApiError(
            400,
            "autoPauseMemory=false (filesystem-only auto-pause) cannot be combined with autoResume: a filesystem-only "
            "snapshot cannot be auto-resumed by traffic and must be resumed explicitly.",
        )
    return Lifetime(
        seconds=seconds,
        never_ends=read_flag(metadata, NEVER_TIMEOUT),
        pause_at_end=pause_at_end,
        pause_keeps_memory=keeps_memory,
        wakes_on_traffic=wakes,
        paused_seconds=read_reserved(metadata.get(RESERVE_PAUSED)),
    )


def read_reserved(text: str | None) -> float | None:
    """How long a paused sandbox is kept, in seconds; None: for ever, which is also what no value means.

    Raises:
        ApiError: 400 for a value that is neither ``forever`` nor a duration above zero.
    """
    if text is None or text == _FOREVER:
        return None
    advice = 'use "forever" for the built-in 100-year retention'
    try:
        seconds = read_duration(text)
    except ValueError as error:
        message = f'Bad extension param: invalid reserve paused sandbox duration "{text}": {error}; {advice}'
        raise ApiError(400, message) from None
    if seconds <= 0:
        raise ApiError(400, f'Bad extension param: reserve paused sandbox duration "{text}" must be positive; {advice}')
    return seconds


def read_reserved_header(text: str | None) -> float | None:
    """The same from a pause's header: None when it is not there, infinity for ``forever``, which it may say too."""
    if text is None:
        return None
    seconds = read_reserved(text)
    return math.inf if seconds is None else seconds


def _wakes(wish: Fields) -> bool:
    """``{"enabled": true}``; e2b 2.14 wrote ``{"policy": "any"}``."""
    if "policy" in wish.names():
        policy = wish.text("policy")
        if policy not in ("any", "off"):
            raise ApiError(400, f"field 'autoResume.policy' must be 'any' or 'off', got '{policy}'")
        return policy == "any"
    return wish.flag("enabled") is True


def read_flag(metadata: Mapping[str, str], key: str, default: str = "false") -> bool:
    """Whether an extension key says ``true``; ``default`` counts when it is not there.

    Raises:
        ApiError: 400 for any other value.
    """
    value = metadata.get(key, default)
    if value not in ("true", "false"):
        raise ApiError(400, f"Bad extension param: {key} must be 'true' or 'false', got '{value}'")
    return value == "true"
