"""Times, durations and page tokens as the API writes and reads them."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from .errors import ApiError
from .reading import Spec

MAX_TIMEOUT = 2_592_000
DURATION = Spec(type="string", description="a number with a unit, or several: 90s, 1.5h, 2h45m")
Timestamp = Annotated[str, Spec(format="date-time")]
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
Range = Annotated[str, Spec(pattern=rf"^{_BYTE}(\.{_BYTE}){{3}}(/(3[0-2]|[12]?[0-9]))?$")]
Ranges = Annotated[
    list[Range],
    Spec(
        maxItems=100,
        description="IPv4 addresses and CIDRs; an allowed address beats a denied one. IPv6 ones have no effect",
    ),
]
Destinations = Annotated[
    list[str],
    Spec(
        maxItems=100,
        description="IPv4 addresses, CIDRs, and, where 0.0.0.0/0 is denied, host names; an allowed address beats a "
        "denied one. IPv6 ones have no effect",
    ),
]
_T = TypeVar("_T")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"([+-]?)((?:{_PART})+)", re.ASCII)
_LONGEST = 2**63 * 1e-9
_MAX_LIMIT = 100


def timestamp(moment: datetime | float) -> str:
    """Return a UTC time, or seconds since the epoch, as ISO 8601 text such as ``2026-01-31T10:00:00.123456Z``."""
    if not isinstance(moment, datetime):
        try:
            moment = datetime.fromtimestamp(moment, UTC)
        except (ValueError, OverflowError, OSError):
            # A sandbox may give a file in a volume a time after the year 9999, which has no such text.
            moment = datetime.fromtimestamp(0, UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _check_timeout(name: str, seconds: int) -> None:
    if seconds <= 0:
        raise ApiError(400, f"Timeout must be greater than 0, got {seconds}")
    if seconds > MAX_TIMEOUT:
        raise ApiError(400, f"Timeout cannot be greater than {MAX_TIMEOUT // 3600} hours, got {seconds} seconds")


Timeout = Annotated[int, Spec(check=_check_timeout, minimum=1, maximum=MAX_TIMEOUT)]


def read_duration(text: str) -> float:
    """Return the seconds of a duration in Go's notation, which OpenKruise's extensions use: ``300ms`` or ``2h45m``.

    A malformed text, or a duration of more than 292 years, raises a ValueError with the reason.
    """
    if text.lstrip("+-") == "0" and len(text) <= 2:
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("a duration is a number with a unit, or several, as 90s, 1.5h or 2h45m")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, match[2], re.ASCII))
    if seconds >= _LONGEST:
        raise ValueError("it is longer than 292 years")
    return -seconds if match[1] == "-" else seconds


def _read_limit(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    digits = text.lstrip("0")[:9]  # enough to see that a number is too large
    if not (text.isascii() and text.isdigit() and digits):
        raise ApiError(400, f"Invalid limit: {text!r}; it must be a number from 1 to {_MAX_LIMIT}")
    return min(int(digits), _MAX_LIMIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The page of a list that a request asks for."""

    limit: Annotated[
        int,
        Spec(
            read=_read_limit,
            minimum=1,
            description=f"entries of the page; more than {_MAX_LIMIT} count as {_MAX_LIMIT}",
        ),
    ] = _MAX_LIMIT
    next_token: Annotated[str, Spec(name="nextToken", description="the header X-Next-Token of the previous page")] = ""


def encode_token(text: str) -> str:
    """Return a page token that holds ``text``."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_token(token: str) -> str:
    """Return the text in a page token. A malformed token raises ApiError 400."""
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:  # not base64, or not UTF-8
        raise ApiError(400, f"Invalid next token: {token!r} did not come from this list") from None


def page_of(
    rows: Sequence[_T], page: Page, position: Callable[[_T], tuple[float, str]], *, newest_first: bool = False
) -> tuple[Sequence[_T], dict[str, str]]:
    """Return the rows of one page, and the header ``X-Next-Token`` for the answer, or no header on the last page.

    ``position`` returns the time and the ID of a row. The caller has sorted ``rows`` by position: in ascending order,
    or in descending order if ``newest_first`` is true. A malformed token in ``page`` raises ApiError 400.
    """
    if page.next_token:
        after = _read_position(page.next_token)
        rows = [row for row in rows if (position(row) < after if newest_first else position(row) > after)]
    shown = rows[: page.limit]
    if len(rows) <= page.limit:
        return shown, {}
    moment, identifier = position(shown[-1])
    return shown, {"X-Next-Token": encode_token(f"{moment!r}__{identifier}")}


def _read_position(token: str) -> tuple[float, str]:
    moment, _, identifier = decode_token(token).partition("__")
    try:
        position = float(moment), identifier
    except ValueError:
        position = math.nan, ""
    if not math.isfinite(position[0]) or not identifier:
        raise ApiError(400, f"Invalid next token: {token!r} did not come from this list")
    return position
