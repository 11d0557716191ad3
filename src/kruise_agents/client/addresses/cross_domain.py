"""Whether what is bound to one domain may accompany a call for another: the one place that decides.

A key, headers and a volume's token belong to the domain that they were given with. Proxies, time-outs and retries
belong to the program and go wherever it goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from ...errors import ConfigurationError
from ...protocol import Scheme, api_url
from ..domain_rules import same_domain, usable_domain
from .settings import Settings


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
    """Whether a call goes to another domain than what it is made on, so that only what it brings may go along.

    Parameters:
        own: the configuration that the call is made on; one with a stated URL keeps everything.
        settings: those that ``own`` was made with.
        stated: the URL that the environment states for such configurations.
        given: the options of the call.
        holder: what the call is made on, for the error.
        option: the secret that the call must bring then.
        bound: whether there is a bound one to protect.

    Raises:
        ConfigurationError: the call does not bring it.
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
    """Whether ``url`` is what the patch makes out of ``domain``, and was not stated.

    A note "derived" would be lost after one hop, since the SDK hands resolved URLs on as arguments; the
    comparison holds after any number of them.
    """
    try:
        own = usable_domain(domain)
    except ConfigurationError:
        return False
    return url in {api_url(scheme, own) for scheme in get_args(Scheme)}
