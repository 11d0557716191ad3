"""The target of a request, and the three shapes in which a request carries its target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

from ..errors import AddressError, PortError
from .names import SANDBOX_ID_HEADER, SANDBOX_PORT_HEADER

PREFIX = "/kruise"
API_PREFIX = "/kruise/api"
API_HOST_PREFIX = "api."
MAX_PORT = 65535

Scheme: TypeAlias = Literal["https", "http"]


class Shape(StrEnum):
    """A way in which a request carries its target."""

    PRIVATE = "private"
    """In the path: ``<domain>/kruise/<sandbox id>/<port>/<path>``."""
    NATIVE = "native"
    """In the host: ``<port>-<sandbox id>.<domain>/<path>``."""
    HEADERS = "headers"
    """In the headers ``E2b-Sandbox-Id`` and ``E2b-Sandbox-Port``; host and path say nothing."""


@dataclass(frozen=True, slots=True)
class SandboxTarget:
    """A path at a port of a sandbox: from ``/`` on, with the query, not decoded and not normalised."""

    sandbox_id: str
    port: int
    path: str = "/"


@dataclass(frozen=True, slots=True)
class ApiTarget:
    """A route of the API: its path with the query and without any prefix, for example ``/sandboxes``.

    A ``private`` request came through ``/kruise/api``, which decides how the reply names the domain.
    """

    path: str = "/"
    private: bool = True


Target: TypeAlias = SandboxTarget | ApiTarget


@dataclass(frozen=True, slots=True)
class WireAddress:
    """The parts of a request on the wire that name its target; ``authority`` is ``Host``."""

    authority: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)


def check_port(port: int) -> int:
    """Return ``port`` if it can be a TCP port, or raise PortError."""
    if not 1 <= port <= MAX_PORT:
        raise PortError(port)
    return port


def api_url(scheme: Scheme, domain: str) -> str:
    """Return the private base URL of the API, for example ``https://your.domain/kruise/api``."""
    return f"{scheme}://{domain}{API_PREFIX}"


def sandbox_prefix(sandbox_id: str, port: int) -> str:
    """Return the path that private addresses of a sandbox's port begin with: ``/kruise/<sandbox id>/<port>``."""
    return f"{PREFIX}/{sandbox_id}/{port}"


def sandbox_host(domain: str, sandbox_id: str, port: int) -> str:
    """Return the private address of a sandbox's port without a scheme: ``your.domain/kruise/<sandbox id>/<port>``."""
    return domain + sandbox_prefix(sandbox_id, port)


def sandbox_url(scheme: Scheme, domain: str, sandbox_id: str, port: int) -> str:
    """Return the private base URL of a sandbox's port."""
    return f"{scheme}://{sandbox_host(domain, sandbox_id, port)}"


def build(target: Target, domain: str, shape: Shape = Shape.PRIVATE) -> WireAddress:
    """Write ``target`` in one of the three shapes. :func:`~.routing.parse` reads the result back.

    An API target has no header shape of its own: natively and with headers, the request goes to ``api.<domain>``.

    Raises:
        AddressError: The target cannot be written in that shape: an empty id, an id with characters that
            a host cannot carry, or an application path that the server would read as a private one.
        PortError: The port is outside 1 ... 65535.
    """
    if isinstance(target, ApiTarget):
        if shape is Shape.PRIVATE:
            return WireAddress(domain, API_PREFIX + target.path)
        return WireAddress(API_HOST_PREFIX + domain, target.path)
    check_port(target.port)
    _check_id(target.sandbox_id, shape)
    if shape is Shape.PRIVATE:
        return WireAddress(domain, sandbox_prefix(target.sandbox_id, target.port) + target.path)
    if is_private_path(target.path):
        raise AddressError(
            f"path {target.path!r} begins with {PREFIX}, which a server reads as a private address; "
            f"use the private shape for it"
        )
    if shape is Shape.NATIVE:
        return WireAddress(f"{target.port}-{target.sandbox_id}.{domain}", target.path)
    return WireAddress(
        domain, target.path, {SANDBOX_ID_HEADER: target.sandbox_id, SANDBOX_PORT_HEADER: str(target.port)}
    )


def is_private_path(target: str) -> bool:
    """Return whether the first path segment is exactly ``kruise``; OpenKruise's manager also takes ``/kruised``."""
    return _is_below(target, PREFIX)


def is_private_api_path(target: str) -> bool:
    """Return whether the first segments are ``kruise`` and ``api``; OpenKruise's manager takes ``/kruise/apis`` too."""
    return _is_below(target, API_PREFIX)


def _is_below(target: str, prefix: str) -> bool:
    return target.startswith(prefix) and target[len(prefix) : len(prefix) + 1] in ("", "/", "?")


def _check_id(sandbox_id: str, shape: Shape) -> None:
    if not sandbox_id:
        raise AddressError("the sandbox id is empty")
    if shape is Shape.PRIVATE and ("/" in sandbox_id or "?" in sandbox_id or sandbox_id == "api"):
        raise AddressError(f"sandbox id {sandbox_id!r} cannot stand in a private path")
    if shape is Shape.NATIVE and not all(c.isascii() and (c.isalnum() or c == "-") for c in sandbox_id):
        raise AddressError(f"sandbox id {sandbox_id!r} cannot stand in a host name (letters, digits, hyphens)")
