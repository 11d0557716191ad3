"""The token of one sandbox through its life: which one may be sent now, and when the next is fetched. No I/O."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ..traffic_response import read_fresh_token
from ..traffic_schedule import backoff, read_claims, refresh_time
from .errors import TrafficAccessTokenExpired, TrafficAccessTokenRefreshError

_NEVER = float("-inf")
_GONE = 404
SEND_NONE = ""
"""Instead of a token: the sandbox is gone, and the answer to the request itself says so best."""


class TrafficAccessToken(str):
    """A token; ``expires_at`` is its end in UTC, or None for an opaque one."""

    expires_at: datetime | None

    def __new__(cls, value: str, expires_at: datetime | None = None) -> TrafficAccessToken:
        """Keep the end with the text."""
        token = super().__new__(cls, value)
        token.expires_at = expires_at
        return token


@dataclass(frozen=True, slots=True)
class Held:
    """A token with its times. One object, so that another thread never sees the half of a change."""

    value: str = field(repr=False)
    exp: float = _NEVER
    refresh_at: float = _NEVER


class TokenState:
    """What is known of a sandbox's token. The caller sees to it that one at a time reports an outcome.

    A token is *managed* when it is a JWT, or when the sandbox is known to need one. What is not managed is left to
    the SDK: no token, or an opaque one.

    Parameters:
        token: what the answer to a create gave.
        clock: seconds since the epoch.
        jitter: a number from 0 up to 1.
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
        self._opaque = token if claims is None else None
        self._held: Held | None = None
        self._failures = 0
        self._wait_until = _NEVER
        self._error: TrafficAccessTokenRefreshError | None = None
        self.attempts = 0
        """How many refreshes have ended; tells whether one ended while somebody waited."""
        if token and claims is not None:
            self._held = self._scheduled(token, claims.exp, claims.iat)

    @property
    def token(self) -> str | None:
        """The newest token, whether it is still valid or not."""
        return self._held.value or None if self._held is not None else self._opaque

    @property
    def due(self) -> bool:
        """Whether a refresh is to be tried before the next request."""
        held, now = self._held, self._clock()
        return held is not None and now >= held.refresh_at and now >= self._wait_until

    def require(self) -> None:
        """The sandbox turned out to be protected: without a token, the next request fetches one."""
        if not self.token:
            self._held = Held("")

    def to_send(self) -> str | None:
        """The token for a request that is sent now; None where that is the SDK's business, or :data:`SEND_NONE`.

        Raises:
            TrafficAccessTokenExpired: there is no valid one.
        """
        held = self._held
        if held is None:
            return None
        if self._clock() >= held.exp:
            if self._error is not None and self._error.status_code == _GONE:
                return SEND_NONE
            raise TrafficAccessTokenExpired from self._error
        return held.value

    def to_show(self) -> TrafficAccessToken:
        """The token for the caller of a refresh.

        Raises:
            TrafficAccessTokenExpired: there is no valid one.
        """
        value = self.to_send() or self._opaque
        if not value:
            raise TrafficAccessTokenExpired from self._error
        return TrafficAccessToken(value, _moment(self._held.exp) if self._held is not None else None)

    def answered(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A refresh ended with an answer, good or bad."""
        try:
            token = read_fresh_token(status, headers, body, self._clock())
        except TrafficAccessTokenRefreshError as error:
            self.failed(error)
            return
        claims = read_claims(token)
        assert claims is not None
        self._held = self._scheduled(token, claims.exp, iat=None)
        self._failures, self._wait_until, self._error = 0, _NEVER, None
        self.attempts += 1

    def failed(self, error: TrafficAccessTokenRefreshError) -> None:
        """A refresh ended without a new token: the old one stays, and the next try waits."""
        self._failures += 1
        self._wait_until = self._clock() + backoff(self._failures, error.retry_after)
        self._error = error
        self.attempts += 1

    def _scheduled(self, token: str, exp: float, iat: float | None) -> Held:
        start = self._clock() if iat is None else iat
        return Held(token, exp, refresh_time(exp, start, self._jitter()))


def _moment(exp: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(exp, UTC)
    except (OverflowError, ValueError, OSError):
        return None  # later than any date that Python can write
