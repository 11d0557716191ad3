"""Reading of domains: the domain that a user gives, and the domain that a server names in its replies."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass

from ..errors import DomainError
from .addresses import API_HOST_PREFIX, MAX_PORT, is_private_path

# Also schemes with forgotten characters: ``https:d.example``, ``https//d.example``, ``//d.example``.
_SCHEME = re.compile(r"^(?:[a-zA-Z][a-zA-Z0-9+.\-]*:/{1,2}|(?:https?|wss?)(?::(?=[^0-9]|$)|//)|//)")
_NOT_IN_A_DOMAIN = (
    (_SCHEME, "has a scheme"),
    (re.compile("/"), "has a path"),
    (re.compile(r"\?"), "has a query"),
    (re.compile("#"), "has a fragment"),
    (re.compile("@"), "has a user part"),
    (re.compile(r"\s"), "has a blank in it"),
)
_HOST = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.\-]*[a-zA-Z0-9_])?\.?")
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::(.*))?")
_PORT = re.compile("[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True)
class Domain:
    """A host, with or without a port. An IPv6 address stands in brackets. ``str()`` gives ``host`` or ``host:port``."""

    host: str
    port: int | None = None

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True if the host is this machine itself."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")


def parse_domain(text: str) -> Domain:
    """Return the domain that a user gives as ``host``, ``host:port``, ``[ipv6]`` or ``[ipv6]:port``.

    Blanks around the text, slashes at its end, and one dot at the end of the host are dropped. The host is lower-cased,
    and an IPv6 address shortened. Other text raises a :class:`DomainError`, whose message suggests the right form if
    the text hints at one.
    """
    value = text.strip().rstrip("/")
    for mark, problem in _NOT_IN_A_DOMAIN:
        if mark.search(value):
            raise _wrong(text, problem, _without_url_parts(value))
    if not value:
        raise DomainError("the domain is empty; give a host, or host:port, such as 'your.domain.com'")
    return _ipv6(text, value) if value.startswith("[") else _name(text, value)


def _ipv6(text: str, value: str) -> Domain:
    match = _BRACKETED.fullmatch(value)
    try:
        address = ipaddress.IPv6Address(match[1]) if match else None
    except ValueError:
        address = None
    if address is not None and address.scope_id is not None:
        raise _wrong(text, "has an IPv6 zone, which an address of the web cannot carry", None)
    if match is None or address is None:
        raise _wrong(text, "is not an IPv6 address in brackets", None)
    return Domain(f"[{address}]", _port(text, match[2]))


def _name(text: str, value: str) -> Domain:
    host, colon, port = value.partition(":")
    if ":" in port:
        try:
            suggestion = f"[{ipaddress.IPv6Address(value)}]"
        except ValueError:
            suggestion = None
        raise _wrong(text, "has more than one colon (an IPv6 address stands in brackets)", suggestion)
    if not _HOST.fullmatch(host) or ".." in host:
        raise _wrong(text, "is not a host name", _in_ascii(host, colon + port))
    return Domain(host.removesuffix(".").lower(), _port(text, port if colon else None))


def _port(text: str, port: str | None) -> int | None:
    if port is None:
        return None
    if not _PORT.fullmatch(port) or int(port) > MAX_PORT:
        raise _wrong(text, f"has the port {port!r}, which is not a number from 1 to {MAX_PORT}", None)
    return int(port)


def _in_ascii(host: str, rest: str) -> str | None:
    try:
        ascii_host = host.encode("idna").decode("ascii")
    except UnicodeError:
        return None
    return ascii_host + rest if ascii_host != host and _HOST.fullmatch(ascii_host) else None


def _without_url_parts(value: str) -> str:
    authority = re.split("[/?#]", _SCHEME.sub("", value), maxsplit=1)[0]
    return re.sub(r"\s+", "", authority.rpartition("@")[2])


def _wrong(text: str, problem: str, suggestion: str | None) -> DomainError:
    hint = "give a host, or host:port, such as 'your.domain.com'"
    if suggestion:
        with suppress(DomainError):  # the suggestion may have a wrong form too; the general hint stays then
            hint = f"use {str(parse_domain(suggestion))!r}"
    return DomainError(f"domain {text!r} {problem}; {hint}")


def domain_for_reply(authority: str, target: str) -> str | None:
    """Return the domain that a client used. A server without a fixed domain puts this domain into its replies.

    Return None if ``authority`` names no host. Then the API answers 400.

    Args:
        authority: The ``Host`` header of the API request, as sent. ``X-Forwarded-Host`` is never used.
        target: The request target. If its path is not private (not ``/kruise/...``), the host of ``authority`` is
            lower-cased, and a leading ``api.`` is dropped.
    """
    private = is_private_path(target)
    host, port = _split_port(authority)
    if not private:
        host = host.lower().removeprefix(API_HOST_PREFIX)
    elif (bracketed := _bracket_raw_ipv6(host)) is not None:
        host = bracketed
    host = host.removesuffix(".")
    if not host:
        return None
    return f"{host}:{port}" if port else host


def _split_port(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        end = authority.find("]")
        if end != -1 and authority[end + 1 : end + 2] == ":":
            return authority[: end + 1], authority[end + 2 :]
        return authority, ""
    if authority.count(":") == 1:
        host, _, port = authority.partition(":")
        return host, port
    return authority, ""


def _bracket_raw_ipv6(host: str) -> str | None:
    if ":" not in host or host.startswith("["):
        return None
    try:
        return f"[{ipaddress.IPv6Address(host)}]"
    except ValueError:
        return None
