"""Targets of requests (ports of sandboxes, and routes of the API), and the private addresses of these targets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..errors import AddressError

PREFIX = "/kruise"
API_PREFIX = "/kruise/api"
API_HOST_PREFIX = "api."
MAX_PORT = 65535
EMBEDDED_ID = "i[a-z0-9]{20}"
"""The pattern of the IDs that the embedded manager gives to sandboxes. IDs of clusters have other forms."""

# The characters that stand in a URL for themselves (RFC 3986, "unreserved"). Names of Kubernetes are a part of these.
_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~-]+")

Scheme: TypeAlias = Literal["https", "http"]


@dataclass(frozen=True, slots=True)
class SandboxTarget:
    """A port of a sandbox, and the path and query of a request to that port, neither decoded nor normalised."""

    sandbox_id: str
    port: int
    path: str = "/"


@dataclass(frozen=True, slots=True)
class ApiTarget:
    """A route of the API: its path with the query, for example ``/sandboxes``.

    For a ``private`` request, the path is the part after ``/kruise/api``.
    """

    path: str = "/"
    private: bool = True


Target: TypeAlias = SandboxTarget | ApiTarget


def api_url(scheme: Scheme, domain: str) -> str:
    """Return the private base URL of the API, for example ``https://your.domain/kruise/api``."""
    return f"{origin(scheme, domain)}{API_PREFIX}"


def origin(scheme: Scheme, domain: str) -> str:
    """Return the URL of a domain without a path, for example ``https://your.domain``."""
    return f"{scheme}://{domain}"


def sandbox_prefix(sandbox_id: str, port: int) -> str:
    """Return the prefix of all private paths of a sandbox's port: ``/kruise/<sandbox id>/<port>``."""
    return f"{PREFIX}/{sandbox_id}/{port}"


def sandbox_host(domain: str, sandbox_id: str, port: int) -> str:
    """Return the private address of a sandbox's port without a scheme: ``your.domain/kruise/<sandbox id>/<port>``.

    An ID that :func:`check_sandbox_id` refuses raises AddressError.
    """
    check_sandbox_id(sandbox_id)
    return domain + sandbox_prefix(sandbox_id, port)


def check_sandbox_id(sandbox_id: str) -> None:
    """Raise AddressError if an address with this ID would not be that of the sandbox, as with ``../x`` or ``api``."""
    if not _ID.fullmatch(sandbox_id) or is_private_api_path(f"{PREFIX}/{sandbox_id}"):
        raise AddressError(
            f"the sandbox ID {sandbox_id!r} cannot be part of an address. An ID has letters, digits, '-', '_', '.' and "
            f"'~', such as 'i4k1v9', and is not '.', '..' or 'api'. If the sandbox-manager gave this ID, check that "
            f"E2B_DOMAIN names your own manager"
        )


def is_private_path(target: str) -> bool:
    """Return whether the first path segment is exactly ``kruise``. OpenKruise's manager also accepts ``/kruised``."""
    return _is_below(target, PREFIX)


def is_private_api_path(target: str) -> bool:
    """Return whether the path begins with the segments ``kruise`` and ``api``. ``/kruise/apis`` does not."""
    return _is_below(target, API_PREFIX)


def _is_below(target: str, prefix: str) -> bool:
    return target.startswith(prefix) and target[len(prefix) : len(prefix) + 1] in ("", "/", "?")
