"""Whether a request may reach a protected sandbox, by the token that it carries.

The refusals are plain text with the words of OpenKruise's gateway, not E2B's JSON: protection is OpenKruise's feature,
so programs that know it know these answers, and no SDK release looks for words in a 403 (e2b 2.8.0 ... 2.63.0).
"""

from __future__ import annotations

from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope

from ..sandboxes.model import Sandbox
from ..traffic_tokens import ForeignTokenError, TokenRefusedError, TrafficTokens

HEADER = b"e2b-traffic-access-token"


def take_tokens(scope: Scope) -> tuple[list[bytes], Scope]:
    """The tokens of a request, and the request without them: no sandbox ever sees one, protected or not."""
    tokens = [value for name, value in scope["headers"] if name == HEADER]
    if not tokens:
        return tokens, scope
    return tokens, {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != HEADER]}


def refusal(sandbox: Sandbox, tokens: list[bytes], issuer: TrafficTokens) -> Response | None:
    """The answer to a request that may not pass; None for one that may."""
    if not sandbox.protected:
        return None
    if len(tokens) != 1:  # of two, nobody can say which one counts
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
