"""Make the E2B SDK speak the OpenKruise private protocol: one plain domain, over https or http.

::

    from kruise_agents.patch_e2b import patch_e2b
    from e2b_code_interpreter import Sandbox

    patch_e2b()            # patch_e2b(False) for plain http

    with Sandbox.create() as sbx:
        sbx.run_code("print('hello world')")

Importing this module does not import ``e2b``; calling :func:`patch_e2b` does.
"""

from __future__ import annotations

from .client.addresses.patch import ADDRESS_PATCH
from .client.addresses.settings import Settings
from .client.patch_set import Patch
from .client.warnings import ServerDomainWarning, UntestedSDKWarning

__all__ = ["Patch", "ServerDomainWarning", "UntestedSDKWarning", "patch_e2b", "unpatch_e2b"]


def patch_e2b(https: bool = True, validate_key: bool | None = None, *, follow_server_domain: bool = False) -> Patch:
    """Make every address that the SDK builds follow the private protocol.

    The API is at ``<scheme>://<domain>/kruise/api`` and the ports of a sandbox are at
    ``<scheme>://<domain>/kruise/<sandbox id>/<port>``, where the domain is that of each call: ``domain=``,
    else ``E2B_DOMAIN``, read when the call is made. A URL that somebody stated (``api_url=``,
    ``E2B_API_URL``, ``sandbox_url=``, ``E2B_SANDBOX_URL``, ``E2B_VOLUME_API_URL``) is used as it is. In debug
    mode the SDK does what it does unpatched. No environment variable is changed.

    Objects built before the call stay native. Calls can be nested: the newest open one decides for the
    objects built from then on, and each object keeps what it was built with.

    Parameters:
        https: the scheme: https, or plain http when false.
        validate_key: e2b 2.25.0 ... 2.45.1 refuse keys that are not ``e2b_<hex>``. True leaves their check as it
            is; otherwise every key passes. Other releases have no such check, and there it changes nothing.
        follow_server_domain: whether sandboxes are addressed at the domain that the server names in its
            answers when it differs from the one the client uses. Otherwise the client's counts, with one
            :class:`ServerDomainWarning` for each pair of domains.

    Returns:
        A handle that can be ignored; its ``close()``, or leaving it as a context manager, undoes the call.

    Raises:
        UnsupportedSDKError: the SDK is missing, older than e2b 2.8.0 or e2b-code-interpreter 2.4.1, or has
            changed in a place that the patch needs. Nothing was changed.
        TypeError: ``https`` is neither true nor false.

    While patched, making a configuration without a usable domain raises ``MissingDomainError`` or
    ``DomainError`` (``kruise_agents.errors``), before any request.
    """
    if not isinstance(https, bool):
        raise TypeError(f"patch_e2b(https) takes True (https) or False (plain http), not {https!r}")
    return ADDRESS_PATCH.open(Settings("https" if https else "http", follow_server_domain, bool(validate_key)))


def unpatch_e2b() -> None:
    """Undo every call of :func:`patch_e2b` whose handle is still open; harmless when there is none.

    Raises:
        PatchConflictError: somebody else replaced a patched place after us; nothing was changed.
    """
    ADDRESS_PATCH.close_all()
