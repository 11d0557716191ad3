"""Patch that makes the E2B SDK speak the OpenKruise private protocol on one plain domain, over https or http.

::

    from kruise_agents.patch_e2b import patch_e2b
    from e2b_code_interpreter import Sandbox

    patch_e2b()            # patch_e2b(False) for plain http

    with Sandbox.create() as sbx:
        sbx.run_code("print('hello world')")

Importing this module does not import ``e2b``; calling :func:`patch_e2b` does.

The module itself can be called as the function: ``from kruise_agents import patch_e2b; patch_e2b()`` does the same.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from .client.addresses.patch import ADDRESS_PATCH
from .client.addresses.run_address import scheme_of_run
from .client.addresses.settings import Settings
from .client.patch_set import Patch
from .client.warnings import (
    ForkWarning,
    LeftOverVariableWarning,
    OlderManagerWarning,
    SandboxIdWarning,
    ServerDomainWarning,
    UntestedSDKWarning,
)

__all__ = [
    "ForkWarning",
    "LeftOverVariableWarning",
    "OlderManagerWarning",
    "Patch",
    "SandboxIdWarning",
    "ServerDomainWarning",
    "UntestedSDKWarning",
    "patch_e2b",
    "unpatch_e2b",
]


def patch_e2b(https: bool = True, validate_key: bool | None = None, *, follow_server_domain: bool = False) -> Patch:
    """Make every address that the SDK builds follow the private protocol.

    The API is at ``<scheme>://<domain>/kruise/api`` and the ports of a sandbox are at
    ``<scheme>://<domain>/kruise/<sandbox id>/<port>``. The domain is ``domain=`` of the call or of its client object,
    else ``E2B_DOMAIN``, read when the SDK is called. Stated URLs (``api_url=``, ``E2B_API_URL``, ``sandbox_url=``,
    ``E2B_SANDBOX_URL``, ``E2B_VOLUME_API_URL``) are used unchanged; those that ``kruise-agents run`` set for programs
    without the patch count as not stated. In debug mode the SDK uses its own addresses.
    No environment variable is changed.

    Sandbox objects keep the domain and settings that they were made with. Sandbox objects made without the patch keep
    the SDK's own addresses. Calls of this function can be nested: the newest call that is not yet undone applies to new
    sandbox objects, and to every request of client objects, paginators (``Sandbox.list()``) and volumes.

    Without a usable domain, the SDK's calls raise ``MissingDomainError`` or ``DomainError`` (``kruise_agents.errors``).
    With a stated API URL, requests to the API need no domain, but the addresses of sandboxes and volume contents do.

    Args:
        https: True for https, False for plain http. Below ``kruise-agents run``, the scheme of ``run`` counts instead,
            unless the program has set ``E2B_DOMAIN`` to another domain.
        validate_key: e2b 2.25.0 ... 2.45.1 refuse keys that are not ``e2b_<hex>``. True keeps that check; otherwise
            every key passes. Other releases have no such check.
        follow_server_domain: which domain to use if the server's answer names another domain for sandboxes or volumes
            than the client uses. True: the server's domain, if that is usable. False: the client's domain, with one
            :class:`ServerDomainWarning` for each pair of domains.

    Returns:
        A handle that can be ignored. Its ``close()``, or leaving it as a context manager, undoes the call.

    Raises:
        UnsupportedSDKError: the SDK is missing, older than e2b 2.8.0, e2b-code-interpreter 2.4.1 or e2b-desktop 2.1.0,
            of unknown version, or not as expected in a place that the patch needs. Nothing was changed.
        TypeError: ``https`` is neither True nor False.
    """
    if not isinstance(https, bool):
        raise TypeError(f"patch_e2b(https) takes True (https) or False (plain http), not {https!r}")
    scheme = scheme_of_run(os.environ.get("E2B_DOMAIN")) or ("https" if https else "http")
    return ADDRESS_PATCH.open(Settings(scheme, follow_server_domain, bool(validate_key)))


def unpatch_e2b() -> None:
    """Undo every call of :func:`patch_e2b` whose handle is still open. Without an open handle, do nothing.

    Raises:
        PatchConflictError: other code replaced a patched place later; nothing was changed.
    """
    ADDRESS_PATCH.close_all()


class CallableModule(ModuleType):
    """The class of this module, which programs call after ``from kruise_agents import patch_e2b``."""

    __call__ = staticmethod(patch_e2b)
    if TYPE_CHECKING:
        patch_e2b = staticmethod(patch_e2b)
        unpatch_e2b = staticmethod(unpatch_e2b)


sys.modules[__name__].__class__ = CallableModule
