"""Rules for domains: which domains can be used, which are equal, and what a call may take along to another domain.

A key, headers and a volume's token belong to the domain that they were given with. Proxies, time-outs and retries
belong to the program and go to every domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from ...errors import ConfigurationError, DomainError, MissingDomainError
from ...protocol.addresses import Scheme, api_url
from ...protocol.domains import Domain, parse_domain
from .settings import Settings

VENDOR_DEFAULTS = frozenset({"e2b.app", "e2b.dev"})
"""Domains that the SDK uses when no domain is given: ``e2b.app``, or ``e2b.dev`` for templates up to e2b 2.9.1."""

_DEFAULT_PORTS: dict[Scheme, int] = {"https": 443, "http": 80}
_MOST_KEPT = 256
_parsed: dict[str, Domain] = {}


def parsed(text: str) -> Domain:
    """Return ``parse_domain(text)`` from a cache, because each address of a configuration needs the domain."""
    # Not kept on the configuration, whose domain may be changed, and which may be copied or pickled.
    domain = _parsed.get(text)
    if domain is None:
        domain = parse_domain(text)
        if len(_parsed) >= _MOST_KEPT:
            _parsed.clear()
        # Sandbox objects often have the normalised form.
        _parsed[text] = _parsed[str(domain)] = domain
    return domain


def is_vendor_default(text: str) -> bool:
    """Return whether ``text`` is blank or a default domain of the SDK; raise DomainError if ``text`` is no domain."""
    # The SDK passes its default domain on like a domain that a user gave.
    return not text.strip() or parsed(text).host in VENDOR_DEFAULTS


def usable_domain(text: str) -> str:
    """Return the normalised domain. Blank text and SDK defaults raise MissingDomainError, wrong forms DomainError."""
    if is_vendor_default(text):
        shown = str(parsed(text)) if text.strip() else text
        raise MissingDomainError(
            f"no domain of your own: the SDK falls back to {shown!r}, which does not speak the private "
            f"protocol. Set the environment variable E2B_DOMAIN, or pass domain=, to the domain of your "
            f"sandbox-manager, such as 'your.domain.com' or 'localhost:7788'; kruise-agents serve prints its own"
        )
    return str(parsed(text))


def same_domain(one: str, other: str, scheme: Scheme) -> bool:
    """Return whether two texts are the same domain; False if a text is no domain. The default port may be left out."""
    # HTTP clients leave the default port out of the Host header, so servers cannot name that port in their answers.
    try:
        return _authority(one, scheme) == _authority(other, scheme)
    except DomainError:
        return False


def stays_behind(
    own: Any,
    settings: Settings,
    stated: str | None,
    given: Mapping[str, Any],
    holder: str,
    option: str = "api_key",
    *,
    bound: bool = True,
) -> bool:
    """Return whether a call on an object goes to another domain, which must not get the object's key and headers.

    Args:
        own: the object's configuration. If its URL is not the private API URL of its domain, the result is False.
        settings: the settings that ``own`` was made with.
        stated: the API URL that ``E2B_API_URL``, or for volumes ``E2B_VOLUME_API_URL``, states; None if it is not set.
        given: the options of the call.
        holder: the kind of object, for the error.
        option: the secret that a call to another domain must bring: ``api_key`` or ``token``.
        bound: False if the object has no secret to protect.

    Raises:
        ConfigurationError: the call to another domain does not bring the secret.
    """
    if not _leaves(own, settings, stated, given):
        return False
    if bound and not given.get(option):
        raise ConfigurationError(
            f"domain={given['domain']!r} is given without {option}= on {holder} of the domain {own.domain!r}, whose "
            f"{option.removeprefix('api_')} would go to {given['domain']!r}. Pass {option}= too, or leave domain= out"
        )
    return True


def _leaves(own: Any, settings: Settings, stated: str | None, given: Mapping[str, Any]) -> bool:
    domain, url = given.get("domain"), given.get("api_url")
    if not domain or given.get("debug") or same_domain(domain, own.domain, settings.scheme):
        return False
    if url:
        return _is_derived(url, domain) and _is_derived(own.api_url, own.domain)
    return _is_derived(own.api_url, own.domain) and own.api_url != stated


def _is_derived(url: str, domain: str) -> bool:
    # The SDK passes resolved URLs on as arguments, so a new configuration cannot tell such a URL from a stated one.
    try:
        own = usable_domain(domain)
    except ConfigurationError:
        return False
    return url in {api_url(scheme, own) for scheme in get_args(Scheme)}


def _authority(text: str, scheme: Scheme) -> tuple[str, int]:
    domain = parsed(text)
    return domain.host, domain.port or _DEFAULT_PORTS[scheme]
