"""Warnings of variables that send the SDK to another address than that of ``E2B_DOMAIN``, once for each value."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from ..warnings import LeftOverVariableWarning, notify
from .run_address import is_of_run

_STATED = ("E2B_API_URL", "E2B_SANDBOX_URL")
_DEFAULT_PORTS = {"https": 443, "http": 80}
_warned_about: set[str] = set()


def warn_of_left_over_variables(config: Any) -> None:
    """Warn of ``E2B_DEBUG``, ``E2B_API_URL`` and ``E2B_SANDBOX_URL`` if they lead away from the domain of a program.

    Programs that state URLs on purpose set no ``E2B_DOMAIN``, or name hosts of that domain.
    """
    domain = os.environ.get("E2B_DOMAIN", "").strip()
    if not domain:
        return
    if config.debug and os.environ.get("E2B_DEBUG", "").lower() == "true":
        complain(
            "E2B_DEBUG",
            f"E2B_DEBUG is set, so the SDK talks to http://localhost:49999 and the like, and not to {domain!r} "
            f"(E2B_DOMAIN). If that is not meant, unset E2B_DEBUG",
        )
        return
    for name in _STATED:
        url = os.environ.get(name, "").strip()
        if url and not is_of_run(url) and not _belongs(url, domain):
            host = urlsplit(url).netloc.rpartition("@")[2]
            complain(
                name,
                f"{name} sends the SDK to {host!r}, and not to {domain!r} (E2B_DOMAIN). If that is not meant, unset "
                f"{name}: the patch makes all addresses from E2B_DOMAIN",
            )


def _belongs(url: str, domain: str) -> bool:
    stated, own = urlsplit(url), urlsplit(f"{urlsplit(url).scheme}://{domain}")
    try:
        ports = [part.port or _DEFAULT_PORTS.get(part.scheme) for part in (stated, own)]
    except ValueError:  # a port that is no number; the SDK's or our error says so
        return True
    host, own_host = ((part.hostname or "").rstrip(".") for part in (stated, own))
    return not host or host.endswith(f".{own_host}") or (host == own_host and ports[0] == ports[1])


def complain(name: str, message: str) -> None:
    """Warn of a variable, unless the process was warned of its value."""
    seen = f"{name}={os.environ.get(name)} {os.environ.get('E2B_DOMAIN')}"
    if seen not in _warned_about:
        _warned_about.add(seen)
        notify(message, LeftOverVariableWarning)
