"""Traffic access tokens of protected sandboxes, which the proxy adds to requests of clients that have no token.

The proxy learns from answers of the API which sandboxes are protected, and keeps the key of such a call to renew the
token. Keys and tokens stay in memory and are never logged.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import httpx
from starlette.types import Scope

from ..client.traffic_token.errors import TrafficAccessTokenExpired
from ..client.traffic_token.holder import Answer, AsyncTokens
from ..client.traffic_token.renewal import TokenState
from ..manager.gateway.headers import Headers
from ..protocol.names import API_KEY_HEADER, PROTECT_KEY, TRAFFIC_TOKEN_HEADER
from ..protocol.routing import is_native_host, native_sandbox
from .hosts import host_of
from .upstream import NoAnswerError, UnreachableError, Upstream, UpstreamTransport

_CREDENTIALS = (API_KEY_HEADER.lower().encode(), b"authorization")
_MOST_SANDBOXES = 4096
_PATIENCE = 30.0
_TOKEN = TRAFFIC_TOKEN_HEADER.encode()

logger = logging.getLogger(__name__)


class TokenRefusedError(Exception):
    """A request that needs a token which the manager does not give."""


class TrafficTokens:
    """The tokens of all sandboxes of which the proxy has seen an answer of the API."""

    def __init__(self, upstream: Upstream) -> None:
        self._api_url = upstream.api_url
        self._transport = UpstreamTransport(upstream)
        self._tokens: OrderedDict[str, AsyncTokens] = OrderedDict()

    async def learn(self, scope: Scope, body: bytes) -> None:
        """Read the answer to a call of the API that names one sandbox: a create, a connect or a look-up."""
        answer = _fields(body)
        sandbox_id = answer.get("sandboxID")
        if not isinstance(sandbox_id, str):
            return
        credentials = [pair for pair in scope["headers"] if pair[0] in _CREDENTIALS]
        token = answer.get("trafficAccessToken")
        if isinstance(token, str) and token:
            self._keep(sandbox_id, TokenState(token), credentials)
        elif sandbox_id not in self._tokens:
            if "metadata" not in answer:
                answer = await self._look_up(sandbox_id, credentials)
            metadata = answer.get("metadata")
            if isinstance(metadata, dict) and metadata.get(PROTECT_KEY) == "true":
                state = TokenState(None)
                state.require()
                self._keep(sandbox_id, state, credentials)

    def forget(self, sandbox_id: str) -> None:
        """Forget the token of a sandbox that is gone."""
        self._tokens.pop(sandbox_id, None)

    async def with_token(self, sandbox_id: str, scope: Scope, headers: Headers) -> Headers:
        """Return the headers of a request to a port of a sandbox, with the sandbox's token if it has one.

        A page of another origin gets no token, so that it cannot use what the user of the browser may use. Raises
        TokenRefusedError if there is no valid token.
        """
        tokens = self._tokens.get(sandbox_id)
        if tokens is None or _is_of_another_page(sandbox_id, scope):
            return headers
        self._tokens.move_to_end(sandbox_id)
        try:
            token = await tokens.current()
        except TrafficAccessTokenExpired as error:
            raise TokenRefusedError(f"{error}: {error.__cause__ or 'no token was given'}") from error
        if token is None:
            return headers
        if not (token.isascii() and token.isprintable()):
            raise TokenRefusedError("the sandbox-manager has given a traffic access token that no header can carry")
        others = [pair for pair in headers if pair[0] != _TOKEN]
        return [*others, (_TOKEN, token.encode("latin-1"))] if token else others

    def _keep(self, sandbox_id: str, state: TokenState, credentials: Headers) -> None:
        async def fetch() -> Answer:
            return await self._ask("POST", sandbox_id, "/traffic-access-token", credentials)

        self._tokens[sandbox_id] = AsyncTokens(state, fetch)
        if len(self._tokens) > _MOST_SANDBOXES:
            self._tokens.popitem(last=False)

    async def _look_up(self, sandbox_id: str, credentials: Headers) -> dict[str, Any]:
        try:
            found = await self._ask("GET", sandbox_id, "", credentials)
        except (UnreachableError, NoAnswerError, TimeoutError, httpx.InvalidURL) as error:
            logger.warning("whether a sandbox needs a traffic access token is not known: %s", error)
            return {}
        return _fields(found.body) if found.status == httpx.codes.OK else {}

    async def _ask(self, method: str, sandbox_id: str, below: str, credentials: Headers) -> Answer:
        request = httpx.Request(method, f"{self._api_url}/sandboxes/{sandbox_id}{below}", headers=credentials)
        async with asyncio.timeout(_PATIENCE):
            response = await self._transport.handle_async_request(request)
            try:
                return Answer(response.status_code, response.headers, await response.aread())
            finally:
                await response.aclose()


def _is_of_another_page(sandbox_id: str, scope: Scope) -> bool:
    """Return whether a browser sends the request for a page of another origin, and not because its user opens it.

    Pages of other sandboxes are of the same origin where a path or a header names the sandbox. There a browser gets in
    only because its user has typed the address.
    """
    headers: Mapping[bytes, bytes] = dict(scope["headers"])
    host = host_of(scope)
    if not (is_native_host(host) and native_sandbox(host, "/").sandbox_id == sandbox_id):
        return b"origin" in headers or headers.get(b"sec-fetch-site", b"none") != b"none"
    own = f"{scope['scheme']}://{host}".lower().encode("latin-1")
    if headers.get(b"origin", own).lower() != own:
        return True
    opens = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    return headers.get(b"sec-fetch-site", b"none") in (b"cross-site", b"same-site") and not opens


def _fields(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}
