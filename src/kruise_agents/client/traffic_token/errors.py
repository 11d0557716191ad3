"""What can go wrong with traffic access tokens; a branch of the tree in :mod:`kruise_agents.errors`.

They are also ``RuntimeError``, as in the package that programs written for OpenKruise import them from.
"""

from __future__ import annotations

from ...errors import KruiseAgentsError


class TrafficAccessTokenError(KruiseAgentsError, RuntimeError):
    """A traffic access token that a protected sandbox needs cannot be had."""


class TrafficAccessTokenExpired(TrafficAccessTokenError):
    """No valid token is left, so nothing was sent. Its cause, where there is one, says why the refresh failed."""

    def __init__(self) -> None:
        super().__init__("traffic access token expired before it could be refreshed")


class TrafficAccessTokenRefreshError(TrafficAccessTokenError):
    """The sandbox-manager gave no new token.

    Parameters:
        retry_after: seconds that it asked to wait, or None.
        status_code: the status of its answer, or None: there was none.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, status_code: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.status_code = status_code
