"""The network rules of sandboxes: what a sandbox may reach outside. Most error texts are those of E2B's API."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from starlette.requests import Request

from ....protocol.fields import Fields
from ...runtime import EgressRules
from ...sandboxes.lifecycle import State
from ...sandboxes.service import SandboxService
from ..auth import NOT_RUNNING, own_sandbox
from ..errors import ApiError
from ..formats import Destinations, Ranges
from ..reading import Spec, refuse
from ..routes import Resource, Topic, operation

_MAX_ENTRIES = 100
NO_INTERNET = (
    "false: nothing outside is reachable, or with allowOut only its addresses and the name servers; without effect "
    "with the runtime process"
)
NO_RULES = "Where sandboxes have no internet access of their own, allowOut is refused and denyOut has no effect."
_EVERYTHING = IPv4Network("0.0.0.0/0")
_NAME = re.compile(r"\*|(\*\.)?([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z]{2,}")
_REFUSED = {
    "maskRequestHost": "requests keep their Host header",
    "rules": "requests to the outside are not changed",
    "egressProxy": "packets go to the outside as they are",
    "httpsPorts": "services in a sandbox are reached by http",
    "dnsServers": "names are looked up as on the manager's machine",
}


@dataclass(frozen=True, slots=True)
class _NetworkRequest:
    allow_out: Destinations = field(default_factory=list)
    deny_out: Ranges = field(default_factory=list)
    allow_internet_access: Annotated[bool | None, Spec(name="allow_internet_access", description=NO_INTERNET)] = None

    @staticmethod
    def check(fields: Fields) -> None:
        refuse(fields, _REFUSED)
        if fields.has("allowPublicTraffic"):
            raise ApiError(400, "field 'allowPublicTraffic' cannot be changed; it is set when a sandbox is made")


@dataclass(frozen=True, slots=True)
class NewNetworkRequest:
    """The network rules in the body of a create call."""

    allow_out: Destinations = field(default_factory=list)
    deny_out: Ranges = field(default_factory=list)
    allow_public_traffic: Annotated[
        bool,
        Spec(
            description="false: requests to the ports of the sandbox, except envd's, need a traffic access token; "
            "needs secure"
        ),
    ] = True

    @staticmethod
    def check(fields: Fields) -> None:
        unknown = fields.unknown(("allowPublicTraffic", "allowOut", "denyOut"))
        refuse(fields, {name: _REFUSED.get(name, "this manager does not know it") for name in unknown})


class NetworkRoutes(Resource):
    """The route that replaces network rules."""

    topic = Topic.SANDBOXES

    def __init__(self, sandboxes: SandboxService) -> None:
        self._sandboxes = sandboxes

    @operation(
        "PUT /sandboxes/{sandbox_id}/network",
        "Replace the network rules of a running sandbox",
        (400, 500),
        meanings={404: NOT_RUNNING},
        note=f"A field that is left out is cleared. {NO_RULES}",
    )
    async def replace(self, request: Request, body: _NetworkRequest) -> None:
        rules = egress_rules(body.allow_out, body.deny_out, body.allow_internet_access, self._sandboxes)
        sandbox = own_sandbox(request, self._sandboxes, State.RUNNING)
        try:
            await self._sandboxes.operations.change_rules(sandbox, rules)
        except OSError as error:
            raise ApiError(500, f"Failed to update network: {error}") from error


def egress_rules(
    allow_out: Sequence[str], deny_out: Sequence[str], internet: bool | None, sandboxes: SandboxService
) -> EgressRules:
    """Return the rules that a request asks for. ``internet=False`` denies everything outside ``allow_out``.

    IPv6 ranges are checked and dropped, because a sandbox with its own network has no IPv6. A malformed range, a name
    with ``*``, and too many entries raise ApiError 400. If sandboxes have no internet access, a name or an IPv4 range
    in ``allow_out`` raises ApiError 400 too.
    """
    for name, entries in (("allowOut", allow_out), ("denyOut", deny_out)):
        if len(entries) > _MAX_ENTRIES:
            raise ApiError(400, f"{name} list exceeds maximum of {_MAX_ENTRIES} entries")
    denied = [_range(entry, f"invalid denied CIDR {entry}") for entry in deny_out]
    if internet is False:
        denied.append(_EVERYTHING)
    names = [entry for entry in allow_out if _NAME.fullmatch(entry)]
    if names and _EVERYTHING not in denied:
        raise ApiError(
            400,
            "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out to block all "
            "other traffic.",
        )
    if wildcard := next((name for name in names if name.startswith("*")), None):
        raise ApiError(
            400,
            f"allowOut entry '{wildcard}' is not supported by this manager: it opens the addresses of a name, and a "
            "name with '*' has none; name each host",
        )
    ranges = [_range(entry, f"invalid allowed address {entry}") for entry in allow_out if entry not in names]
    rules = EgressRules(version_4(ranges), version_4(denied), tuple(dict.fromkeys(map(str.lower, names))))
    if (rules.allowed or rules.names) and not sandboxes.reach_the_internet:
        raise ApiError(
            400, "field 'network.allowOut' is not supported by this manager: its sandboxes have no internet access"
        )
    return rules


def _range(entry: str, complaint: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(entry, strict=False)
    except ValueError:
        raise ApiError(400, complaint) from None


def version_4(networks: Sequence[IPv4Network | IPv6Network | None]) -> tuple[IPv4Network, ...]:
    """Return the IPv4 networks."""
    return tuple(network for network in networks if isinstance(network, IPv4Network))
