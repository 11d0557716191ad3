"""Writer of addresses in each of their three shapes, the opposite of :func:`kruise_agents.protocol.routing.parse`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from kruise_agents.errors import AddressError
from kruise_agents.protocol.addresses import (
    API_HOST_PREFIX,
    API_PREFIX,
    ApiTarget,
    Target,
    is_private_path,
    sandbox_prefix,
)
from kruise_agents.protocol.names import SANDBOX_ID_HEADER, SANDBOX_PORT_HEADER


class Shape(StrEnum):
    """A way in which a request carries its target."""

    PRIVATE = "private"
    """In the path: ``<domain>/kruise/<sandbox id>/<port>/<path>``."""
    NATIVE = "native"
    """In the host: ``<port>-<sandbox id>.<domain>/<path>``."""
    HEADERS = "headers"
    """In the headers ``E2b-Sandbox-Id`` and ``E2b-Sandbox-Port``; host and path say nothing."""


@dataclass(frozen=True, slots=True)
class WireAddress:
    """The parts of a request that name its target. ``authority`` is the value of ``Host``."""

    authority: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)


def build(target: Target, domain: str, shape: Shape = Shape.PRIVATE) -> WireAddress:
    """Return the address of ``target`` in a shape; raise AddressError if the shape cannot carry the path.

    An API target has no header shape of its own: natively and with headers, the request goes to ``api.<domain>``.
    """
    if isinstance(target, ApiTarget):
        if shape is Shape.PRIVATE:
            return WireAddress(domain, API_PREFIX + target.path)
        return WireAddress(API_HOST_PREFIX + domain, target.path)
    if shape is Shape.PRIVATE:
        return WireAddress(domain, sandbox_prefix(target.sandbox_id, target.port) + target.path)
    if is_private_path(target.path):
        raise AddressError(f"a server reads the path {target.path!r} as a private address")
    if shape is Shape.NATIVE:
        return WireAddress(f"{target.port}-{target.sandbox_id}.{domain}", target.path)
    headers = {SANDBOX_ID_HEADER: target.sandbox_id, SANDBOX_PORT_HEADER: str(target.port)}
    return WireAddress(domain, target.path, headers)
