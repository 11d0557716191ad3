"""Public exceptions of this package.

::

    KruiseAgentsError
    ├── ConfigurationError            an argument, option, variable or file cannot be used (also a ValueError)
    │   ├── DomainError               a domain has a wrong form
    │   └── MissingDomainError        no domain was given
    ├── AddressError                  a request is neither for a port of a sandbox nor for the API
    │   └── PortError                 a request names a port outside 1 ... 65535
    ├── PatchError                    the SDK cannot be patched or unpatched; nothing was changed
    │   ├── UnsupportedSDKError       the SDK is missing, too old, or not as the patch expects
    │   └── PatchConflictError        other code replaced a patched place later
    ├── UnsupportedByManagerError     the manager is too old for a call
    ├── RuntimeUnavailableError       sandboxes cannot be isolated on this machine
    └── TrafficAccessTokenError       there is no traffic access token to send or return (also a RuntimeError)
        ├── TrafficAccessTokenExpired         no valid token is left
        └── TrafficAccessTokenRefreshError    the manager gave no new token

``client/traffic_token/errors.py`` defines the last three. Other subclasses of ``KruiseAgentsError`` are defined in
``manager/`` and ``sandbox/``, beside the code that raises them. Some exceptions that the package itself catches are no
subclasses, for example ``NotDelegatedError`` in ``manager/runtime/limits/cgroups.py``.
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
    """A domain that is not ``host`` or ``host:port``, for example a domain with a scheme, a path or a blank."""


class MissingDomainError(ConfigurationError):
    """No domain: ``domain=`` and ``E2B_DOMAIN`` name none, or a default of the SDK (``e2b.app``, ``e2b.dev``)."""


class AddressError(KruiseAgentsError):
    """A request that is neither for a port of a sandbox nor for the API."""


class PortError(AddressError):
    """A request for a ``port`` outside 1 ... 65535. A port of more than 18 digits is a plain ``AddressError``."""

    def __init__(self, port: int) -> None:
        super().__init__(f"invalid sandbox port: {port}")
        self.port = port


class PatchError(KruiseAgentsError):
    """Base class of the errors of patching and unpatching the SDK. Nothing was changed."""


class UnsupportedSDKError(PatchError):
    """An SDK that is missing or too old, or that differs from what the patch expects."""


class PatchConflictError(PatchError):
    """A patch that cannot be undone, because other code replaced a patched place later."""


class UnsupportedByManagerError(KruiseAgentsError):
    """A call that an old sandbox-manager would misread, or carry out only in part. The manager carried out nothing.

    The class is no subclass of the SDK's exceptions, because programs take such exceptions for answers to the call: a
    ``NotFoundException`` would say that a sandbox is gone, and a ``SandboxException`` invites a retry, which has the
    same result until the manager is upgraded.
    """


class RuntimeUnavailableError(KruiseAgentsError):
    """A machine that cannot isolate sandboxes: ``bwrap`` is missing, too old, or not permitted to make namespaces."""
