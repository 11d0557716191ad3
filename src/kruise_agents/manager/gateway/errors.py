"""Error responses of the data plane, for requests that get no proper answer from a port of a sandbox.

A missing sandbox and a closed port get E2B's answers: the SDK looks for the words ``was not found`` and ``port is not
open`` in the body (e2b 2.53.1 and later), and only the status 502 makes ``is_running()`` return False. Requests for an
invalid port, or for neither a sandbox nor the API, get the texts of OpenKruise's manager. JSON bodies have a
``request_id``, like the errors of the API.
"""

from __future__ import annotations

from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..request_log import current_request_id


class DataPlaneErrors:
    """The error responses of a gateway. For a manager with other error texts there is a subclass."""

    def sandbox_not_found(self, sandbox_id: str) -> Response:
        """Return the answer for a sandbox that is unknown, killed, past its end time or not running."""
        return _json(502, sandboxId=sandbox_id, message="The sandbox was not found")

    def port_not_open(self, sandbox_id: str, port: int) -> Response:
        """Return the answer for a port on which nothing listens, although the sandbox runs."""
        message = "The sandbox is running but port is not open"
        return _json(502, sandboxId=sandbox_id, message=message, port=port)

    def bad_answer(self, sandbox_id: str, port: int, cause: str) -> Response:
        """Return the answer for a port whose program does not answer as an HTTP/1.1 server should."""
        message = f"The program on that port did not answer as an HTTP server: {cause}"
        return _json(502, sandboxId=sandbox_id, message=message, port=port)

    def traffic_token_missing(self, sandbox_id: str, header: str) -> Response:
        """Return the answer for a request without the traffic access token that the sandbox's port needs."""
        message = f"Sandbox is secured with traffic access token. Token header '{header}' is missing"
        return _json(403, sandboxId=sandbox_id, message=message)

    def traffic_token_invalid(self, sandbox_id: str, header: str) -> Response:
        """Return the answer for a request with a wrong traffic access token, or with several such tokens."""
        message = f"Sandbox is secured with traffic access token. Provided token in header '{header}' is invalid"
        return _json(403, sandboxId=sandbox_id, message=message)

    def reserved_route(self, path: str) -> Response:
        """Return the answer for a route of envd that only the manager may call."""
        message = "This endpoint is reserved for the E2B control plane and is not reachable through the sandbox URL"
        return _json(404, message=message, path=path)

    def worker_of_other_ports(self, path: str) -> Response:
        """Return the answer for the script of a service worker whose scope would have other ports in it."""
        message = "A service worker from this path would serve other ports too. Put the script below the path"
        return _json(403, message=message, path=path)

    def invalid_port(self, port: int) -> Response:
        """Return the answer for a port outside 1 ... 65535."""
        return PlainTextResponse(f"API Error: invalid sandbox port: {port}", status_code=400)

    def unmappable(self, url: str) -> Response:
        """Return the answer for a request that names neither a sandbox nor the API."""
        text = (
            f"API Error: failed to map request to sandbox, URL={url}\n"
            f"Paths begin with /kruise/api/ (the API) or /kruise/<sandbox ID>/<port>/. Append a path to "
            f"get_host(port): urljoin() and links of a page that begin with / leave out what stands before it\n"
        )
        return PlainTextResponse(text, status_code=500)


def _json(status: int, **fields: object) -> Response:
    request_id = current_request_id()
    return JSONResponse({**fields, "code": status, "request_id": request_id}, status_code=status)
