"""The names under which the proxy may be called.

A page on the internet can make its own name point at this machine (DNS rebinding), and then reads every answer of a
server that serves any name. The proxy serves loopback names, IP addresses, and the domains that its user has named.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope

from ..errors import DomainError
from ..protocol.domains import parse_domain

_LOCAL = "localhost"


class OwnNames:
    """The names of this proxy: names for which no other machine can stand, and ``domains`` with all names below."""

    def __init__(self, domains: Iterable[str]) -> None:
        self.hosts = [_LOCAL, *(parse_domain(domain).host for domain in domains)]

    def include(self, authority: str) -> bool:
        """Return whether a ``Host`` header names this proxy."""
        try:
            host = parse_domain(authority).host
        except DomainError:
            return False
        return _is_address(host) or any(host == own or host.endswith(f".{own}") for own in self.hosts)

    def end_at(self, authority: str, address: str) -> bool:
        """Return whether a tunnel to ``authority`` ends here, for a client that has connected to ``address``.

        An IP address that is neither a domain, nor a loopback address, nor the one connected to is another machine's.
        """
        try:
            host = parse_domain(authority).host
            ip = ipaddress.ip_address(host.strip("[]"))
        except DomainError:
            return False
        except ValueError:
            return self.include(authority)
        return host in self.hosts or ip.is_loopback or ip == ipaddress.ip_address(address.partition("%")[0])

    def refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that came under another name, or None."""
        authority = host_of(scope)
        if self.include(authority):
            return None
        text = (
            f"kruise-agents proxy does not serve the name {authority!r}. It serves localhost, names below localhost, "
            f"and IP addresses. If clients call it by that name, start it with --domain {authority}\n"
        )
        return PlainTextResponse(text, status_code=403)


def host_of(scope: Scope) -> str:
    """Return the ``Host`` header of a request."""
    return next((str(value, "latin-1") for name, value in scope["headers"] if name == b"host"), "")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
