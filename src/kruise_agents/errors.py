"""Public exceptions of this package.

::

    KruiseAgentsError
    ├── ConfigurationError            an argument, option, variable or file cannot be used (also a ValueError)
    │   ├── DomainError               a domain has a wrong form
    │   └── MissingDomainError        no domain of the user's own was given
    ├── AddressError                  an address is neither a port of a sandbox nor the API
    │   └── PortError                 a request names a port outside 1 ... 65535
    ├── PatchError                    the SDK cannot be patched or unpatched; nothing was changed
    │   ├── UnsupportedSDKError       the SDK is missing, too old, or not as the patch expects
    │   └── PatchConflictError        other code replaced a patched place later
    ├── UnsupportedByManagerError     the manager is too old for a call
    ├── RuntimeUnavailableError       sandboxes cannot be isolated on this machine
    └── TrafficAccessTokenError       there is no traffic access token to send or return (also a RuntimeError)
        ├── TrafficAccessTokenExpired         no valid token is left
        └── TrafficAccessTokenRefreshError    the manager gave no new token

``client/traffic_token/errors.py`` defines the last three. ``manager/`` and ``sandbox/`` define further subclasses of
``KruiseAgentsError``. Some exceptions that the package itself catches are no subclasses.
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
    """Base class of this package's exceptions."""


class ConfigurationError(KruiseAgentsError, ValueError):
    """An argument, an option, an environment variable or a file that cannot be used."""


class DomainError(ConfigurationError):
    """A domain that is not ``host`` or ``host:port``, for example a text with a scheme, a path or an inner blank."""


class MissingDomainError(ConfigurationError):
    """A missing domain: ``domain=`` or ``E2B_DOMAIN`` names no domain, or a default of the SDK such as ``e2b.app``."""


class AddressError(KruiseAgentsError):
    """A request that is neither for a port of a sandbox nor for the API, or an ID that no address can carry."""


class PortError(AddressError):
    """A request for a ``port`` outside 1 ... 65535. A port of more than 18 digits raises a plain ``AddressError``."""

    def __init__(self, port: int) -> None:
        super().__init__(f"invalid sandbox port: {port}")
        self.port = port


class PatchError(KruiseAgentsError):
    """Base class of the errors of patching and unpatching. The SDK stays as it was before the failed call."""


class UnsupportedSDKError(PatchError):
    """An SDK that is missing, too old or of unknown version, or that differs from what the patch expects."""


class PatchConflictError(PatchError):
    """A patch that cannot be undone, because other code replaced a patched place later."""


class UnsupportedByManagerError(KruiseAgentsError):
    """A call that an old sandbox-manager would misread, or carry out only in part. The call had no effect.

    The class is no subclass of the SDK's exceptions, because programs take such exceptions for answers to the call: a
    ``NotFoundException`` would say that a sandbox is gone, and a ``SandboxException`` invites a retry, which has the
    same result until the manager is upgraded.
    """


class RuntimeUnavailableError(KruiseAgentsError):
    """A machine that cannot isolate sandboxes: ``bwrap`` is missing, too old, or not permitted to make namespaces."""
