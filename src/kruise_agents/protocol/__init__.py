"""The address algebra: how a request says which sandbox and port, or which API route, it is meant for.

Pure functions on the standard library. ``addresses`` builds, ``routing`` parses, ``domains`` reads domains.
Source of the facts: the OpenKruise private protocol (sandbox-manager, state of August 2026).
"""

from __future__ import annotations

from .addresses import (
    ApiTarget,
    SandboxTarget,
    Scheme,
    Shape,
    Target,
    WireAddress,
    api_url,
    build,
    sandbox_host,
    sandbox_url,
)
from .domains import Domain, domain_for_reply, parse_domain
from .routing import parse

__all__ = [
    "ApiTarget",
    "Domain",
    "SandboxTarget",
    "Scheme",
    "Shape",
    "Target",
    "WireAddress",
    "api_url",
    "build",
    "domain_for_reply",
    "parse",
    "parse_domain",
    "sandbox_host",
    "sandbox_url",
]
