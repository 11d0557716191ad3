"""The data plane of OpenKruise's manager behind Envoy: which requests it can map, and the texts of its refusals."""

from __future__ import annotations

from starlette.responses import Response

from ...errors import AddressError
from ...protocol.addresses import API_PREFIX, ApiTarget, SandboxTarget, Target, is_private_api_path, is_private_path
from ...protocol.routing import is_own_host, parse
from ..gateway.errors import DataPlaneErrors


def find_target(authority: str, target: str, sandbox_id: str | None = None, sandbox_port: str | None = None) -> Target:
    """Parse a request as ``protocol.routing.parse`` does, but misread three kinds as OpenKruise's manager does.

    ``/kruise/api-prod--a/3000`` is taken for a path of the API. Two kinds cannot be mapped: ``/kruise/<id>/3000?x=1``,
    because the port is taken to be ``3000?x=1``, and an ID header without a port header. Nothing is misread on the
    native host of a sandbox of this manager: a browser keeps the pages of different sandboxes apart by their hosts.
    """
    if is_own_host(authority):
        return parse(authority, target)
    if target.startswith(API_PREFIX) and not is_private_api_path(target):
        return ApiTarget(target, private=False)
    found = parse(authority, target, sandbox_id, sandbox_port)
    if isinstance(found, SandboxTarget):
        if is_private_path(target):
            if "?" in target.split("/", 4)[3]:
                raise AddressError(f"the port in {target!r} is not a number")
        elif sandbox_id and not sandbox_port:
            raise AddressError("the header with a sandbox ID needs one with a port")
    return found


class OpenKruiseErrors(DataPlaneErrors):
    """The refusals of OpenKruise's manager, and Envoy's for a closed port."""

    def sandbox_not_found(self, sandbox_id: str) -> Response:
        return _text(502, f"API Error: healthy sandbox {sandbox_id} not found")

    def port_not_open(self, sandbox_id: str, port: int) -> Response:
        return _text(
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, "
            "transport failure reason: delayed connect error: Connection refused",
        )

    def reserved_route(self, path: str) -> Response:
        # There the pod answers, and takes a request with its access token. Here nobody but the manager is let in.
        return Response(status_code=401)

    def invalid_port(self, port: int) -> Response:
        return _text(400, f"API Error: invalid sandbox port: {port}")

    def unmappable(self, url: str) -> Response:
        return _text(500, f"API Error: failed to map request to sandbox, URL={url}")


def _text(status: int, text: str) -> Response:
    return Response(text, status, {"Content-Type": "text/plain"})
