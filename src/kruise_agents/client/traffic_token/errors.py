"""Errors of traffic access tokens, a branch of the tree in :mod:`kruise_agents.errors`.

The classes are also ``RuntimeError``, as in the package that programs written for OpenKruise import them from.
"""

from __future__ import annotations

from ...errors import KruiseAgentsError


class TrafficAccessTokenError(KruiseAgentsError, RuntimeError):
    """A protected sandbox needs a traffic access token that cannot be fetched."""


class TrafficAccessTokenExpired(TrafficAccessTokenError):
    """No valid token is left, so nothing was sent. ``__cause__``, if set, is the failure of the refresh."""

    def __init__(self) -> None:
        super().__init__("traffic access token expired before it could be refreshed")


class TrafficAccessTokenRefreshError(TrafficAccessTokenError):
    """The sandbox-manager gave no new token.

    Args:
        retry_after: the seconds that the manager asked to wait, or None.
        status_code: the status of the manager's answer, or None without an answer.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, status_code: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.status_code = status_code
