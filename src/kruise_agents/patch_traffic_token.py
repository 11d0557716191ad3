"""Patch that makes the E2B SDK send the traffic access token of protected sandboxes, and refresh the token in time.

::

    from kruise_agents.patch_e2b import patch_e2b
    from kruise_agents.patch_traffic_token import patch_traffic_access_token
    from e2b_code_interpreter import Sandbox

    patch_e2b()
    patch_traffic_access_token()

    with Sandbox.create(metadata={"security.agents.kruise.io/enable-jwt-auth": "true"}) as sbx:
        sbx.run_code("print('hello world')")

Importing this module does not import ``e2b``; calling :func:`patch_traffic_access_token` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from .client.patch_set import Patch
from .client.traffic_token.errors import (
    TrafficAccessTokenError,
    TrafficAccessTokenExpired,
    TrafficAccessTokenRefreshError,
)
from .client.traffic_token.patch import TRAFFIC_PATCH
from .client.traffic_token.renewal import TrafficAccessToken

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from e2b import AsyncSandbox, Sandbox

__all__ = [
    "Patch",
    "TrafficAccessToken",
    "TrafficAccessTokenError",
    "TrafficAccessTokenExpired",
    "TrafficAccessTokenRefreshError",
    "patch_traffic_access_token",
    "refresh_traffic_access_token",
    "unpatch_traffic_access_token",
]


def patch_traffic_access_token() -> Patch:
    """Make the SDK send the current traffic access token with its requests to the ports of protected sandboxes.

    Sync and async requests for files, commands, PTYs, watches and code carry the token; requests to the API do not.
    A request in the last minutes before the expiry usually refreshes the token first. A token that has expired by
    the local clock is not sent: if its refresh fails, the request raises :class:`TrafficAccessTokenExpired`. But if the
    manager answers 404 to the refresh, the request is sent without a token, and the SDK reports the missing sandbox.

    For a protected sandbox, the API's answer to ``connect`` contains no token. So if ``connect`` brings no token,
    the patch asks the API whether the sandbox is protected. If so, the next request to a port fetches a token.

    For requests that the program makes itself, ``sandbox.traffic_access_token`` is the newest token.
    :func:`refresh_traffic_access_token` refreshes that token when a refresh is due. The method
    ``sandbox.refresh_traffic_access_token()`` does the same, but type checkers do not know the method.

    The patch does not change requests in debug mode. If a create brings a token that is not a JWT with an expiry, the
    token is sent as it is and not renewed. If a refresh brings such a token, the token is renewed before the expiry
    that the manager states. Sandbox objects that were made without the patch stay unpatched. The patch works with and
    without ``patch_e2b()``, in any order.

    Returns:
        A handle that can be ignored. Its ``close()``, or leaving it as a context manager, undoes the call. After the
        last handle is closed, do not use sandbox objects that were made under the patch.

    Raises:
        UnsupportedSDKError: the SDK is missing, too old, of unknown version, or not as expected in a place that the
            patch needs. Nothing was changed.
    """
    return TRAFFIC_PATCH.open("traffic access tokens")


@overload
def refresh_traffic_access_token(sandbox: Sandbox, force: bool = False) -> TrafficAccessToken: ...
@overload
def refresh_traffic_access_token(sandbox: AsyncSandbox, force: bool = False) -> Awaitable[TrafficAccessToken]: ...
def refresh_traffic_access_token(sandbox: Any, force: bool = False) -> Any:
    """Return the traffic access token of a sandbox, after a refresh if one is due.

    Args:
        sandbox: a sandbox that was made under :func:`patch_traffic_access_token`.
        force: fetch a new token even if no refresh is due. If that fails, an old token that is valid is returned.

    Returns:
        The token, a string with the attribute ``expires_at``; in debug mode, an empty token. For an ``AsyncSandbox``,
        an awaitable of the token.

    Raises:
        TrafficAccessTokenExpired: there is no valid token.
        TrafficAccessTokenError: the sandbox was made without the patch, or the SDK is not patched.
    """
    refresh = getattr(sandbox, "refresh_traffic_access_token", None)
    if refresh is None:
        raise TrafficAccessTokenError(
            "the SDK is not patched; call patch_traffic_access_token(), then make the sandbox"
        )
    return refresh(force)


def unpatch_traffic_access_token() -> None:
    """Undo every call of :func:`patch_traffic_access_token` whose handle is still open.

    Raises:
        PatchConflictError: other code replaced a patched place later; nothing was changed.
    """
    TRAFFIC_PATCH.close_all()
