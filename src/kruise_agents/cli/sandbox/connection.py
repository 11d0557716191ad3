"""The manager that the commands talk to: from the environment, or from the file of a manager on this machine."""

from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit

from ...embedded import Connection, default_state_dir, running_manager
from ...errors import ConfigurationError
from ...patch_e2b import Patch, patch_e2b
from ...probe import Trouble, look_at
from ...protocol.domains import Domain, parse_domain
from .errors import SandboxCommandError
from .output import note

_PATIENCE = 3.0
"""Seconds to wait for an answer that tells http from https."""


def connect(https: bool | None, *, quiet: bool = False) -> Patch:
    """Find the manager, set the variables that lead to it, and patch the SDK. Return the handle of the patch.

    Args:
        https: the user's choice; None to find it out.
        quiet: do not say on the terminal what was found out.
    """
    local = local_manager()
    stated = os.environ.get("E2B_API_URL")
    domain = os.environ.get("E2B_DOMAIN")
    if not (domain or stated):
        if local is None:
            raise SandboxCommandError(
                f"there is no manager to talk to: E2B_DOMAIN is not set, and no manager runs with the state folder "
                f"{default_state_dir()}. Start one with 'kruise-agents serve', or set E2B_DOMAIN and E2B_API_KEY"
            )
        os.environ.update(local.environment())
        https = local.https if https is None else https
    elif local is not None and domain == local.domain and not stated:
        own_key = os.environ.get("E2B_API_KEY")
        # Its authority replaces the user's SSL_CERT_FILE, because no other authority has signed its certificate.
        os.environ.update(local.environment() | ({"E2B_API_KEY": own_key} if own_key else {}))
        https = local.https if https is None else https
    elif https is None and stated:
        https = urlsplit(stated).scheme != "http"
    elif https is None:
        https, reason = _scheme_of(parse_domain(domain or ""))
        if not quiet and sys.stderr.isatty():
            note(f"using {'https' if https else 'http'}://{domain}: {reason}")
    return patch_e2b(bool(https))


def local_manager() -> Connection | None:
    """Return the connection to the manager that runs here, or None without such a manager."""
    try:
        return running_manager(default_state_dir())
    except ConfigurationError:
        return None


def _scheme_of(domain: Domain) -> tuple[bool, str]:
    """Return whether a domain wants https, and why it is taken for so.

    Only addresses of this machine are asked. To another machine the key goes over plain http only where the user says
    so, because whoever can break a TLS connection could otherwise make the client send the key in the clear.
    """
    if not domain.is_loopback:
        return True, "https is for all other machines; --http for plain http"
    return look_at(
        "http", domain, seconds=_PATIENCE
    ).trouble is Trouble.WANTS_TLS, "found out by asking; --http and --https say it beforehand"
