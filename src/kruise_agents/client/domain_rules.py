"""Which domains a configuration may use, and when two of them are the same."""

from __future__ import annotations

from ..errors import DomainError, MissingDomainError
from ..protocol import Domain, Scheme, parse_domain

VENDOR_DEFAULTS = frozenset({"e2b.app", "e2b.dev"})
"""What the SDK uses when nobody names a domain: ``e2b.app``; for templates up to e2b 2.9.1 ``e2b.dev``."""

_DEFAULT_PORTS: dict[Scheme, int] = {"https": 443, "http": 80}


def is_vendor_default(text: str) -> bool:
    """Whether ``text`` is what the SDK fills in for "no domain".

    It is recognised by value, because the SDK hands its default on like any domain that a user gave.

    Raises:
        DomainError: ``text`` is not a domain.
    """
    return not text.strip() or parse_domain(text).host in VENDOR_DEFAULTS


def usable_domain(text: str) -> str:
    """The normalised form of a domain that private addresses can be built on.

    Raises:
        DomainError: ``text`` is not a domain.
        MissingDomainError: it is only the SDK's default.
    """
    domain = parse_domain(text) if text.strip() else None
    if domain is None or domain.host in VENDOR_DEFAULTS:
        raise MissingDomainError(
            f"no domain of your own: the SDK falls back to {str(domain or text)!r}, which does not speak the private "
            f"protocol. Set the environment variable E2B_DOMAIN, or pass domain=, to the domain of your "
            f"sandbox-manager, such as 'your.domain.com' or 'localhost:8080'"
        )
    return str(domain)


def same_domain(one: str, other: str, scheme: Scheme) -> bool:
    """Whether two domains lead to the same place: equal after normalising, a default port counting as none.

    HTTP clients leave the default port out of ``Host``, so a server cannot repeat it. A text that is not a
    domain is the same as nothing.
    """
    try:
        return _reached(parse_domain(one), scheme) == _reached(parse_domain(other), scheme)
    except DomainError:
        return False


def _reached(domain: Domain, scheme: Scheme) -> tuple[str, int]:
    return domain.host, domain.port or _DEFAULT_PORTS[scheme]
