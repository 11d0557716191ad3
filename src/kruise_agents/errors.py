"""Errors of this package.

::

    KruiseAgentsError
    ├── ConfigurationError            a value that somebody set is wrong (also a ValueError)
    │   ├── DomainError               a domain that is not host or host:port
    │   └── MissingDomainError        no domain anywhere
    ├── AddressError                  a request for no sandbox and no API route
    │   └── PortError                 a request for a port outside 1 ... 65535
    ├── PatchError                    the SDK cannot be patched; nothing was changed
    │   ├── UnsupportedSDKError       a version or a place that the patch does not fit
    │   └── PatchConflictError        other code patched the same place later
    ├── UnsupportedByManagerError     the manager is too old for a call, which was not sent
    ├── RuntimeUnavailableError       sandboxes cannot be isolated on this machine as asked
    └── TrafficAccessTokenError       a protected sandbox's token cannot be fetched (also a RuntimeError)
        ├── TrafficAccessTokenExpired         ... and the current token has expired; nothing was sent
        └── TrafficAccessTokenRefreshError    ... because the manager gave no new token

Further errors are defined where they are used: traffic tokens (``client/traffic_token/errors.py``), ``StartError`` and
``NoAnswerError`` (``manager/sandboxes/control_client.py``), ``RefusedError`` (``manager/sandboxes/lifecycle.py``),
``NoSpaceError`` (``manager/state/database.py``), ``ConnectError`` (``sandbox/connect/errors.py``) and
``CodeInterpreterError`` (``sandbox/code_interpreter/errors.py``).
"""

from __future__ import annotations

__all__ = [
    "AddressError",
    "ConfigurationError",
    "DomainError",
    "KruiseAgentsError",
    "MissingDomainError",
    "PatchConflictError",
    "PatchError",
    "PortError",
    "RuntimeUnavailableError",
    "UnsupportedByManagerError",
    "UnsupportedSDKError",
]


class KruiseAgentsError(Exception):
    """The base class of the errors above."""


class ConfigurationError(KruiseAgentsError, ValueError):
    """A setting, an argument or an environment variable has an unusable value."""


class DomainError(ConfigurationError):
    """A domain is not ``host`` or ``host:port``; for example, it has a scheme, a path or a blank."""


class MissingDomainError(ConfigurationError):
    """Neither ``E2B_DOMAIN`` nor ``domain=`` names a domain."""


class AddressError(KruiseAgentsError):
    """A request is neither for a sandbox nor for the API."""


class PortError(AddressError):
    """A request for a sandbox names a ``port`` outside 1 ... 65535."""

    def __init__(self, port: int) -> None:
        super().__init__(f"invalid sandbox port: {port}")
        self.port = port


class PatchError(KruiseAgentsError):
    """The SDK was not patched, or not unpatched. Nothing is left half-patched."""


class UnsupportedSDKError(PatchError):
    """The installed SDK is too old, or a place in it differs from what the patch expects."""


class PatchConflictError(PatchError):
    """Other code replaced a patched place after the patch."""


class UnsupportedByManagerError(KruiseAgentsError):
    """A call was not sent, because an old sandbox-manager would misread it or carry out only a part.

    The class is no exception of the SDK, because programs handle those as answers of a server: a ``NotFoundException``
    would say that a sandbox is gone, and a ``SandboxException`` invites a retry. No server was asked, and no retry
    helps until the manager is upgraded.
    """


class RuntimeUnavailableError(KruiseAgentsError):
    """The chosen sandbox runtime does not work on this machine."""
