"""Errors of traffic access tokens, a branch of the tree in :mod:`kruise_agents.errors`.

The classes are also subclasses of ``RuntimeError``, like the classes of these names in OpenKruise's own package.
"""

from __future__ import annotations

from ...errors import KruiseAgentsError


class TrafficAccessTokenError(KruiseAgentsError, RuntimeError):
    """Base class of the errors of tokens. This class itself is raised if the SDK or a sandbox object is not patched."""


class TrafficAccessTokenExpired(TrafficAccessTokenError):
    """There is no valid token to send or to return. ``__cause__`` is the error of the last refresh if that failed."""

    def __init__(self) -> None:
        super().__init__("traffic access token expired before it could be refreshed")


class TrafficAccessTokenRefreshError(TrafficAccessTokenError):
    """The sandbox-manager gave no new token. Programs get this error as ``__cause__`` of TrafficAccessTokenExpired.

    Args:
        retry_after: the seconds that the manager asked the client to wait, or None.
        status_code: the status of the manager's answer, or None if there was no answer.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, status_code: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.status_code = status_code
