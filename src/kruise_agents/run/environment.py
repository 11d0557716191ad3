"""The environment variables of a program below ``kruise-agents run``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from ..protocol.addresses import Scheme, api_url, origin
from ..protocol.domains import parse_domain
from ..protocol.names import RUN_ADDRESS_VARIABLE, RUN_TRAFFIC_TOKENS_VARIABLE, RUN_VARIABLES, RUN_VERBOSE_VARIABLE

SITE = Path(__file__).parent / "site"
"""The folder whose ``sitecustomize`` patches Python processes."""
_LEADING_ELSEWHERE = ("E2B_API_URL", "E2B_SANDBOX_URL", "E2B_VOLUME_API_URL", "E2B_DEBUG")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def client_variables(outside: Mapping[str, str], scheme: Scheme) -> dict[str, str]:
    """Return the variables by which programs find the manager of ``E2B_DOMAIN``, with the patch and without it.

    ``E2B_API_URL`` and ``E2B_SANDBOX_URL`` of the user count. Without ``E2B_DOMAIN``, return only the scheme for the
    patch, because a program may set the domain itself. A domain of a wrong form raises DomainError.
    """
    stated = outside.get("E2B_DOMAIN", "").strip()
    if not stated:
        return {RUN_ADDRESS_VARIABLE: origin(scheme, "")}
    domain = str(parse_domain(stated))
    address, of_user = origin(scheme, domain), _without_run(outside)
    variables = {
        "E2B_DOMAIN": domain,
        "E2B_API_KEY": outside.get("E2B_API_KEY", ""),
        "E2B_API_URL": of_user.get("E2B_API_URL") or api_url(scheme, domain),
        "E2B_SANDBOX_URL": of_user.get("E2B_SANDBOX_URL") or address,
        RUN_ADDRESS_VARIABLE: address,
    }
    return {name: value for name, value in variables.items() if value}


def for_manager_here(outside: Mapping[str, str], connection: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with those of a manager on this machine, and without those that lead elsewhere."""
    environment = {name: value for name, value in outside.items() if name not in _LEADING_ELSEWHERE}
    environment.update(connection)
    if "SSL_CERT_FILE" in connection:
        environment["NODE_EXTRA_CA_CERTS"] = connection["SSL_CERT_FILE"]
    lower = {name.lower(): value for name, value in outside.items() if value}
    if any(name in lower for name in _PROXIES):
        direct = ",".join(filter(None, [lower.get("no_proxy"), "localhost,127.0.0.1,::1"]))
        environment |= {"NO_PROXY": direct, "no_proxy": direct}
    return environment


def program_environment(
    outside: Mapping[str, str], scheme: Scheme, *, traffic_tokens: bool = False, verbose: bool = False
) -> dict[str, str]:
    """Return all variables of the program: ``outside``, those that find the manager, and those that patch Python."""
    environment = _without_run(outside) | client_variables(outside, scheme)
    if traffic_tokens:
        environment[RUN_TRAFFIC_TOKENS_VARIABLE] = "true"
    if verbose:
        environment[RUN_VERBOSE_VARIABLE] = "true"
    # An empty PYTHONPATH is no path, but an empty entry of one is the working directory.
    before = environment.get("PYTHONPATH")
    folders = [folder for folder in before.split(os.pathsep) if folder != str(SITE)] if before else []
    environment["PYTHONPATH"] = os.pathsep.join([str(SITE), *folders])
    return environment


def _without_run(outside: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those of a ``run`` above this one."""
    scheme, _, domain = outside.get(RUN_ADDRESS_VARIABLE, "").partition("://")
    of_run = set(RUN_VARIABLES)
    for known in get_args(Scheme):
        if domain and scheme == known:
            urls = {"E2B_API_URL": api_url(known, domain), "E2B_SANDBOX_URL": origin(known, domain)}
            of_run |= {name for name, url in urls.items() if outside.get(name) == url}
    return {name: value for name, value in outside.items() if name not in of_run}
