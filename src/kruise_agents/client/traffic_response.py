"""Whether the answer to a refresh is a token that can be used. Pure functions; no message shows a token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from .traffic_schedule import read_claims, read_retry_after
from .traffic_token.errors import TrafficAccessTokenRefreshError

_TOLERATED_SECONDS = 5.0


def read_fresh_token(status: int, headers: Mapping[str, str], body: bytes, now: float) -> str:
    """The token in an answer to ``POST /sandboxes/{id}/traffic-access-token``.

    Parameters:
        headers: the answer's; looked up by ``Retry-After``.
        now: seconds since the epoch.

    Raises:
        TrafficAccessTokenRefreshError: there is none that can be trusted to work.
    """
    if status >= 300:
        raise TrafficAccessTokenRefreshError(
            f"traffic access token refresh failed with status {status}",
            retry_after=read_retry_after(headers.get("Retry-After")),
            status_code=status,
        )
    token, expiration = _fields(body, status)
    if expiration.tzinfo is None:
        raise _wrong("traffic access token expiration must include a timezone", status)
    claims = read_claims(token)
    if claims is None:
        raise _wrong("traffic access token is not a JWT with a valid exp claim", status)
    stated = expiration.timestamp()
    if abs(stated - claims.exp) > _TOLERATED_SECONDS:
        raise _wrong("traffic access token expiration does not match its exp claim", status)
    if stated <= now:
        raise _wrong("traffic access token refresh returned an expired token", status)
    return token


def _fields(body: bytes, status: int) -> tuple[str, datetime]:
    try:
        answer = json.loads(body)
        token, expiration = answer["trafficAccessToken"], datetime.fromisoformat(answer["trafficAccessTokenExpiration"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _wrong("traffic access token refresh returned an invalid response", status) from None
    if not isinstance(token, str) or not token:
        raise _wrong("traffic access token refresh returned an invalid response", status)
    return token, expiration


def _wrong(message: str, status: int) -> TrafficAccessTokenRefreshError:
    return TrafficAccessTokenRefreshError(message, status_code=status)
