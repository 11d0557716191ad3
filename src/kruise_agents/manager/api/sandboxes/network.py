"""What a sandbox may reach outside, as requests say it. Source of the texts: E2B's API."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...runtime import EgressRules
from ...sandboxes.lifecycle import State
from ...sandboxes.service import SandboxService
from ..auth import own_sandbox
from ..errors import ApiError
from ..reading import Fields, read_fields

_MAX_ENTRIES = 100
_EVERYTHING = IPv4Network("0.0.0.0/0")
_NAME = re.compile(r"^(\*|(\*\.)?([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z]{2,})$")
_WHY = {
    "maskRequestHost": "requests keep their Host header",
    "rules": "requests to the outside are not changed",
    "egressProxy": "packets go to the outside as they are",
    "httpsPorts": "services in a sandbox are reached by http",
    "dnsServers": "names are looked up as on the manager's machine",
}


class NetworkRoutes:
    """The handlers of network rules."""

    def __init__(self, sandboxes: SandboxService) -> None:
        self._sandboxes = sandboxes

    def routes(self) -> list[Route]:
        """Their routes."""
        return [Route("/sandboxes/{sandbox_id}/network", self.replace, methods=["PUT"])]

    async def replace(self, request: Request) -> Response:
        """Put new rules in the place of all that were; what is left out is cleared."""
        fields = await read_fields(request)
        rules = egress_rules(fields, fields.flag("allow_internet_access"))
        for name, why in _WHY.items():
            fields.refuse(name, why)
        if "allowPublicTraffic" in fields.names():
            raise ApiError(400, "field 'allowPublicTraffic' cannot be changed; it is set when a sandbox is made")
        require_a_way_out(rules, self._sandboxes)
        sandbox = own_sandbox(request, self._sandboxes, State.RUNNING)
        try:
            await self._sandboxes.operations.change_rules(sandbox, rules)
        except OSError as error:
            raise ApiError(500, f"Failed to update network: {error}") from error
        return Response(status_code=204)


def egress_of_create(fields: Fields) -> EgressRules:
    """The rules in the body of a create; other members of ``network`` are refused when they ask for something.

    Raises:
        ApiError: 400.
    """
    network = fields.object("network")
    for name in network.names():
        if name not in ("allowPublicTraffic", "allowOut", "denyOut"):
            network.refuse(name, _WHY.get(name, "this manager does not know it"))
    return egress_rules(network, fields.flag("allow_internet_access"))


def is_public(fields: Fields, *, secure: bool) -> bool:
    """Whether a create call leaves the ports of its sandbox open to everybody.

    Parameters:
        secure: whether envd asks for a token, because its port is not closed by this.

    Raises:
        ApiError: 400.
    """
    public = fields.object("network").flag("allowPublicTraffic") is not False
    if not public and not secure:
        raise ApiError(
            400,
            "You cannot create a sandbox without public access unless you enable secure envd access via 'secure' flag.",
        )
    return public


def require_a_way_out(rules: EgressRules, sandboxes: SandboxService) -> None:
    """Refuse to allow what cannot be reached anyway.

    Raises:
        ApiError: 400.
    """
    if rules.allowed and not sandboxes.reach_the_internet:
        raise ApiError(
            400, "field 'network.allowOut' is not supported by this manager: its sandboxes have no internet access"
        )


def egress_rules(network: Fields, internet: bool | None) -> EgressRules:
    """The rules in ``allowOut`` and ``denyOut``. IPv6 is read and has no effect: there is none.

    Raises:
        ApiError: 400.
    """
    allowed, denied = network.strings("allowOut"), network.strings("denyOut")
    for name, entries in (("allowOut", allowed), ("denyOut", denied)):
        if len(entries) > _MAX_ENTRIES:
            raise ApiError(400, f"{name} list exceeds maximum of {_MAX_ENTRIES} entries")
    refused = [_range(entry, f"invalid denied CIDR {entry}") for entry in denied]
    if internet is False:
        refused.append(_EVERYTHING)
    names = [entry for entry in allowed if _NAME.match(entry)]
    if names and _EVERYTHING not in refused:
        raise ApiError(
            400,
            "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out to block all "
            "other traffic.",
        )
    if names:
        raise ApiError(
            400, f"allowOut entry '{names[0]}' is not supported by this manager: only addresses and CIDRs are"
        )
    granted = [_range(entry, f"invalid allowed address {entry}") for entry in allowed]
    return EgressRules(_version_4(granted), _version_4(refused))


def _range(entry: str, complaint: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(entry, strict=False)
    except ValueError:
        raise ApiError(400, complaint) from None


def _version_4(networks: list[IPv4Network | IPv6Network]) -> tuple[IPv4Network, ...]:
    return tuple(network for network in networks if isinstance(network, IPv4Network))
