"""Network rules. A request replaces all rules by its ``allowOut`` and ``denyOut``, and nothing else of it counts."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network

from ...protocol.fields import Fields
from ..api.sandboxes.network import version_4
from ..runtime import EgressRules
from .reading import Refused

_MAX_ENTRIES = 100
_HOST_NAME = re.compile(r"([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z]{2,}")


def read_rules(fields: Fields) -> EgressRules:
    """Return the rules in ``fields``. IPv6 ranges are checked and dropped, as sandboxes here have no IPv6.

    Where sandboxes have no internet access, the rules are kept and shown, and mean nothing.
    """
    lists = {name: fields.texts(name) for name in ("allowOut", "denyOut")}
    for name, entries in lists.items():
        if len(entries) > _MAX_ENTRIES:
            raise Refused(400, f"{name} list exceeds maximum of {_MAX_ENTRIES} entries")
    allowed = [_allowed(entry) for entry in lists["allowOut"]]
    names = [entry.lower() for entry, network in zip(lists["allowOut"], allowed, strict=True) if network is None]
    denied = [_range(entry) for entry in lists["denyOut"]]
    for entry, network in zip(lists["denyOut"], denied, strict=True):
        if network is None:
            raise Refused(400, f'domains are not supported in denyOut: "{entry}" is not a valid CIDR or IP address')
    return EgressRules(version_4(allowed), version_4(denied), tuple(dict.fromkeys(names)))


def _allowed(entry: str) -> IPv4Network | IPv6Network | None:
    # Return None for a host name.
    network = _range(entry)
    if network is not None or _HOST_NAME.fullmatch(entry):
        return network
    if entry.startswith("*"):
        raise Refused(
            400,
            f'invalid allowOut entry: "{entry}" wildcard domains are not supported, use a concrete domain instead',
        )
    raise Refused(400, f'invalid allowOut entry: "{entry}" is not a valid CIDR, IP, or domain')


def _range(entry: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(entry, strict=False)
    except ValueError:
        return None
