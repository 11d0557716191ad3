"""The check of traffic access tokens, for sandboxes whose ports are not open to everybody.

A protected sandbox, as OpenKruise has it, takes JWTs on every port, and refuses in plain text with the words of
OpenKruise's gateway. A sandbox without public traffic, as E2B has it, takes one token on every port but envd's, which
has a token of its own, and refuses in JSON. No SDK release looks for words in a 403 (e2b 2.8.0 ... 2.63.0).
"""

from __future__ import annotations

import hmac

from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope

from ...protocol.names import ENVD_PORT, TRAFFIC_TOKEN_HEADER
from ..sandboxes.sandbox import Sandbox
from ..traffic_tokens import ForeignTokenError, TokenRefusedError, TrafficTokens
from .errors import traffic_token_invalid, traffic_token_missing

_HEADER = TRAFFIC_TOKEN_HEADER.encode()


def take_tokens(scope: Scope) -> tuple[list[bytes], Scope]:
    """Return the tokens of a request, and the request without them, because no sandbox may see one."""
    tokens = [value for name, value in scope["headers"] if name == _HEADER]
    if not tokens:
        return tokens, scope
    return tokens, {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != _HEADER]}


def refusal(sandbox: Sandbox, port: int, tokens: list[bytes], issuer: TrafficTokens) -> Response | None:
    """Return the answer that refuses a request, or None if the request may pass."""
    if sandbox.protected:
        return _refusal_of_protected(sandbox, tokens, issuer)
    if sandbox.traffic_token is None or port == ENVD_PORT:
        return None
    if not tokens:
        return traffic_token_missing(sandbox.id, TRAFFIC_TOKEN_HEADER)
    if len(tokens) != 1 or not hmac.compare_digest(tokens[0], sandbox.traffic_token.encode()):
        return traffic_token_invalid(sandbox.id, TRAFFIC_TOKEN_HEADER)
    return None


def _refusal_of_protected(sandbox: Sandbox, tokens: list[bytes], issuer: TrafficTokens) -> Response | None:
    if len(tokens) != 1:  # nobody can say which of two counts
        return _forbidden("invalid or missing traffic access token")
    try:
        issuer.check(tokens[0].decode("latin-1"), sandbox.id, sandbox.uid)
    except ForeignTokenError:
        return _forbidden("traffic access token does not match sandbox")
    except TokenRefusedError:
        return _forbidden("invalid or missing traffic access token")
    return None


def _forbidden(why: str) -> Response:
    return PlainTextResponse(f"forbidden: {why}", status_code=403)
