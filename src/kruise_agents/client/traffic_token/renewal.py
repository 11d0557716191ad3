"""State of a sandbox's traffic access token: the token that may be sent now, and the time of the next refresh.

This module does no I/O. Times are seconds since the epoch. The schedule has the same constants as OpenKruise's own
client. Error messages contain no token.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeGuard

from .errors import TrafficAccessTokenExpired, TrafficAccessTokenRefreshError

SEND_NONE = ""
"""Result of :meth:`TokenState.to_send` if the token has expired and its refresh was answered with 404."""

_NEVER = float("-inf")
_GONE = 404
_LONGEST_AHEAD = 300.0
_SHORTEST_AHEAD = 60.0
_AHEAD_SHARE = 0.2
_JITTER_SHARE = 0.1
_BACKOFF = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_TOLERATED_SECONDS = 5.0
_INVALID = "traffic access token refresh returned an invalid response"
_FITS_A_HEADER = re.compile(r"[!-~]+")


class TrafficAccessToken(str):
    """A traffic access token. ``expires_at`` is its expiry in UTC, or None if unknown or too late for ``datetime``."""

    expires_at: datetime | None

    def __new__(cls, value: str, expires_at: datetime | None = None) -> TrafficAccessToken:
        token = super().__new__(cls, value)
        token.expires_at = expires_at
        return token


@dataclass(frozen=True, slots=True)
class ManagedToken:
    """A token, its expiry and the time of its next refresh, in one object so that threads see only whole changes."""

    value: str = field(repr=False)  # empty before the first token is fetched
    exp: float = _NEVER
    refresh_at: float = _NEVER


class TokenState:
    """The state of a sandbox's token. Callers must report the outcomes of refreshes one at a time.

    A token is *managed* if it is a JWT with an expiry, or if a refresh fetched it. A managed token is renewed before it
    expires; a fetched token without a known expiry counts as endless. If a sandbox is known to be protected and has no
    token, a refresh fetches its first token. Any other token came with a create and is *opaque*: it is sent as it is
    and never renewed.
    """

    def __init__(
        self,
        token: str | None,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        claims = read_claims(token) if token else None
        self._opaque = token if token and claims is None else None
        self._managed: ManagedToken | None = None
        self._failures = 0
        self._wait_until = _NEVER
        self._error: TrafficAccessTokenRefreshError | None = None
        self.attempts = 0
        """Number of refreshes that have ended. If it grows while a caller waits, another caller's refresh has ended."""
        if token and claims is not None:
            self._managed = self._scheduled(token, claims.exp, claims.iat)

    @property
    def token(self) -> str | None:
        return self._managed.value or None if self._managed is not None else self._opaque

    @property
    def due(self) -> bool:
        managed, now = self._managed, self._clock()
        return managed is not None and now >= managed.refresh_at and now >= self._wait_until

    def require(self) -> None:
        """Mark the sandbox as protected. If there is no token yet, the next request to a port fetches a token."""
        if not self.token:
            self._managed = ManagedToken("")

    def to_send(self) -> str | None:
        """Return the token to send, ``SEND_NONE`` to send no token, or None to leave the SDK's headers unchanged."""
        managed = self._managed
        if managed is None:
            return self._opaque
        if self._clock() >= managed.exp:
            if self._error is not None and self._error.status_code == _GONE:
                return SEND_NONE
            raise TrafficAccessTokenExpired from self._error
        return managed.value

    def to_show(self) -> TrafficAccessToken:
        """Return the token for the caller of a refresh; raise TrafficAccessTokenExpired if no token is valid."""
        value = self.to_send()
        if not value:
            raise TrafficAccessTokenExpired from self._error
        return TrafficAccessToken(value, _utc(self._managed.exp) if self._managed is not None else None)

    def answered(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        try:
            token, exp = read_fresh_token(status, headers, body, self._clock())
        except TrafficAccessTokenRefreshError as error:
            self.failed(error)
            return
        self._managed = self._scheduled(token, exp, iat=None)
        self._failures, self._wait_until, self._error = 0, _NEVER, None
        self.attempts += 1

    def failed(self, error: TrafficAccessTokenRefreshError) -> None:
        """Record a refresh without a new token. The old token stays, and no refresh is due during the backoff."""
        self._failures += 1
        self._wait_until = self._clock() + backoff(self._failures, error.retry_after)
        self._error = error
        self.attempts += 1

    def _scheduled(self, token: str, exp: float, iat: float | None) -> ManagedToken:
        start = self._clock() if iat is None else iat
        return ManagedToken(token, exp, refresh_time(exp, start, self._jitter()))


@dataclass(frozen=True, slots=True)
class Claims:
    """The times of expiry (``exp``) and of issue (``iat``) that a token names."""

    exp: float
    iat: float | None = None


def read_claims(token: str) -> Claims | None:
    """Return the times in a JWT with an expiry; None for other tokens. The signature is not checked."""
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
    """Return the time of the next refresh. A ``random`` from 0 to 1 keeps many clients from refreshing together."""
    ahead = min(_LONGEST_AHEAD, max(_SHORTEST_AHEAD, _AHEAD_SHARE * max(0.0, exp - iat)))
    return exp - ahead - ahead * _JITTER_SHARE * random


def backoff(failures: int, retry_after: float | None) -> float:
    """Return the seconds to wait after a number of failures in a row: at least ``retry_after``."""
    return max(_BACKOFF[min(failures, len(_BACKOFF)) - 1], retry_after or 0.0)


def read_retry_after(text: str | None) -> float | None:
    """Return the seconds in a ``Retry-After`` header. None: the header is missing or holds no number of seconds."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def read_fresh_token(status: int, headers: Mapping[str, str], body: bytes, now: float) -> tuple[str, float]:
    """Return the new token in an answer, and its expiry, which is infinite if neither token nor answer names a time.

    Raises:
        TrafficAccessTokenRefreshError: the answer has no usable token.
    """
    if status >= 300:
        raise TrafficAccessTokenRefreshError(
            f"traffic access token refresh failed with status {status}",
            retry_after=read_retry_after(headers.get("Retry-After")),
            status_code=status,
        )
    token, expiration = _fields(body, status)
    claims = read_claims(token)
    if claims is None and expiration is None:
        return token, math.inf
    if expiration is None:
        raise _refused(_INVALID, status)
    if expiration.tzinfo is None:
        raise _refused("traffic access token expiration must include a timezone", status)
    stated = expiration.timestamp()
    if claims is not None and abs(stated - claims.exp) > _TOLERATED_SECONDS:
        raise _refused("traffic access token expiration does not match its exp claim", status)
    if stated <= now:
        raise _refused("traffic access token refresh returned an expired token", status)
    return token, stated if claims is None else claims.exp


def _fields(body: bytes, status: int) -> tuple[str, datetime | None]:
    try:
        answer = json.loads(body)
        token, stated = answer["trafficAccessToken"], answer.get("trafficAccessTokenExpiration")
        expiration = None if stated is None else datetime.fromisoformat(stated)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _refused(_INVALID, status) from None
    if not isinstance(token, str) or not _FITS_A_HEADER.fullmatch(token):
        raise _refused(_INVALID, status)
    return token, expiration


def _refused(message: str, status: int) -> TrafficAccessTokenRefreshError:
    return TrafficAccessTokenRefreshError(message, status_code=status)


def _is_time(value: Any) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _utc(exp: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(exp, UTC)
    except (OverflowError, ValueError, OSError):
        return None  # later than any date that Python can write
