"""Every error that this package raises on purpose.

::

    KruiseAgentsError
    ├── ConfigurationError            a value that somebody set is wrong (also a ValueError)
    │   ├── DomainError               a domain that cannot be one
    │   └── MissingDomainError        no domain anywhere
    ├── AddressError                  a request that names no sandbox and no API route
    │   └── PortError                 a sandbox, but a port outside 1 ... 65535
    ├── PatchError                    the SDK cannot be patched; nothing was changed
    │   ├── UnsupportedSDKError       a version or a seam that the patch does not fit
    │   └── PatchConflictError        somebody else patched the same place after us
    ├── UnsupportedByManagerError     the manager is too old for a call, which was not sent
    ├── RuntimeUnavailableError       sandboxes cannot be isolated on this machine as asked
    └── TrafficAccessTokenError       a protected sandbox's token cannot be had (also a RuntimeError; traffic_errors.py)
        ├── TrafficAccessTokenExpired         ... and the one at hand has expired; nothing was sent
        └── TrafficAccessTokenRefreshError    ... because the manager did not give a new one

More branches grow where only their own floor meets them: ``StartError`` and ``NoAnswerError``
(``manager/sandboxes/control_client.py``), ``RefusedError`` (``manager/sandboxes/lifecycle.py``), ``NoSpaceError``
(``manager/state/database.py``), ``ConnectError`` (``sandbox/connect/errors.py``) and ``CodeInterpreterError``
(``sandbox/code_interpreter/errors.py``).
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
    """The root of the tree: catch this to catch everything from this package."""


class ConfigurationError(KruiseAgentsError, ValueError):
    """A setting, an argument or an environment variable has a value that cannot work."""


class DomainError(ConfigurationError):
    """A domain with a scheme, a path, a blank or anything else that is not ``host`` or ``host:port``."""


class MissingDomainError(ConfigurationError):
    """Neither ``E2B_DOMAIN`` nor ``domain=`` names a domain."""


class AddressError(KruiseAgentsError):
    """A request that cannot be mapped to a sandbox or to the API."""


class PortError(AddressError):
    """A request that names a sandbox and a port that cannot exist.

    ``port`` is the number as it was written.
    """

    def __init__(self, port: int) -> None:
        super().__init__(f"invalid sandbox port: {port}")
        self.port = port


class PatchError(KruiseAgentsError):
    """The SDK was not patched, or not unpatched. Nothing is left half-patched."""


class UnsupportedSDKError(PatchError):
    """The installed SDK is outside the tested range, or a seam is not what the patch expects."""


class PatchConflictError(PatchError):
    """A patched place holds something that is neither the SDK's nor ours."""


class UnsupportedByManagerError(KruiseAgentsError):
    """A call that an old sandbox-manager would misread or carry out only in part; it was not sent.

    It is no exception of the SDK's, because those stand for answers of a server, and programs handle them as such:
    a ``NotFoundException`` would say that a sandbox is gone, a ``SandboxException`` invites another try. Nothing
    was asked here, and asking again does not help until the manager is upgraded.
    """


class RuntimeUnavailableError(KruiseAgentsError):
    """The chosen sandbox runtime cannot work on this machine."""
