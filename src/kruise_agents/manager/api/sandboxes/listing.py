"""Which sandboxes a list shows, in which order, and where the next page begins. Pure functions."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import unquote, unquote_plus

from ...sandboxes.sandbox import Sandbox
from ..errors import ApiError
from ..replies import shown_state, timestamp

_MAX_LIMIT = 100
_ASCENDING_MARK = "__asc"
_STARTED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_STATES = frozenset({"running", "paused"})


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a list was asked for."""

    states: frozenset[str] = _STATES
    metadata: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    started_after: datetime | None = None
    ascending: bool = False
    limit: int = _MAX_LIMIT
    after: tuple[str, str] | None = None
    """Start time and id of the last sandbox of the page before."""


def read_query(query: Mapping[str, str]) -> ListQuery:
    """Read the query parameters of ``GET /v2/sandboxes``.

    Raises:
        ApiError: 400, naming the parameter and its value.
    """
    order = query.get("order") or "desc"
    if order not in ("asc", "desc"):
        raise ApiError(400, f"Invalid order parameter: {order}; it is 'asc' or 'desc'")
    template = query.get("template")
    if template and ":" in template:
        raise ApiError(400, "Invalid template: tags are not supported here because sandboxes are not tag-scoped")
    return ListQuery(
        states=_states(query.get("state")),
        metadata=read_metadata(query.get("metadata")),
        template=template or None,
        started_after=_moment(query.get("startedAfter")),
        ascending=order == "asc",
        limit=read_limit(query.get("limit")),
        after=_read_cursor(query.get("nextToken"), ascending=order == "asc"),
    )


def page(sandboxes: Iterable[Sandbox], query: ListQuery) -> tuple[list[Sandbox], str | None]:
    """The sandboxes of one page, and the token of the next page or None."""
    found = [sandbox for sandbox in sandboxes if _matches(sandbox, query)]
    found.sort(key=_position, reverse=not query.ascending)
    if query.after is not None:
        after = query.after
        found = [s for s in found if (_position(s) > after if query.ascending else _position(s) < after)]
    shown = found[: query.limit]
    more = len(found) > len(shown)
    return shown, _cursor(shown[-1], ascending=query.ascending) if more else None


def read_metadata(text: str | None) -> dict[str, str]:
    """Decode a metadata filter.

    The SDK percent-quotes every key and value, form-encodes the pairs, and its HTTP client encodes the whole once
    more (e2b 2.8.0 ... 2.63.0); one layer is gone when this is called.

    Raises:
        ApiError: 400 when a pair is not ``key=value``.
    """
    if not text:
        return {}
    pairs: dict[str, str] = {}
    for pair in unquote_plus(text).split("&"):
        key, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise ApiError(400, f"Error parsing metadata: {pair!r} is not one key=value pair")
        pairs[unquote(key)] = unquote(value)
    return pairs


def _matches(sandbox: Sandbox, query: ListQuery) -> bool:
    return (
        shown_state(sandbox) in query.states
        and (query.template is None or query.template.lower() in (sandbox.template.name, _bare(sandbox.template.name)))
        and (query.started_after is None or sandbox.started_at >= query.started_after)
        and all(sandbox.metadata.get(key) == value for key, value in query.metadata.items())
    )


def _bare(template: str) -> str:
    """Its name without a tag; a filter has none, because a sandbox of E2B does not know by which it was made."""
    return template.partition(":")[0]


def _position(sandbox: Sandbox) -> tuple[str, str]:
    return timestamp(sandbox.started_at), sandbox.id


def _cursor(sandbox: Sandbox, *, ascending: bool) -> str:
    text = "__".join(_position(sandbox)) + (_ASCENDING_MARK if ascending else "")
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(token: str | None, *, ascending: bool) -> tuple[str, str] | None:
    if not token:
        return None
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:  # no base64, or no text in it
        raise ApiError(400, f"Invalid next token: {token!r} did not come from this list") from None
    started, _, rest = text.partition("__")
    sandbox_id, mark, _ = rest.partition(_ASCENDING_MARK)
    if _STARTED.fullmatch(started) is None or not sandbox_id or bool(mark) is not ascending:
        raise ApiError(400, f"Invalid next token: {token!r} did not come from this list in this order")
    return started, sandbox_id


def _states(text: str | None) -> frozenset[str]:
    if not text:
        return _STATES
    states = frozenset(text.split(","))
    if unknown := states - _STATES:
        raise ApiError(400, f"Invalid state: {', '.join(sorted(unknown))!r}; it is 'running', 'paused', or both")
    return states


def read_limit(text: str | None) -> int:
    """How many entries a page may have.

    Raises:
        ApiError: 400, naming the value.
    """
    if text is None:
        return _MAX_LIMIT
    if not (text.isascii() and text.isdigit()) or int(text[:9]) < 1:
        raise ApiError(400, f"Invalid limit: {text!r}; it must be a number from 1 to {_MAX_LIMIT}")
    return min(int(text[:9]), _MAX_LIMIT)


def page_token(moment: float, identifier: str) -> str:
    """The token of the page behind an entry, of lists in the order of time and id."""
    return base64.urlsafe_b64encode(f"{moment!r}__{identifier}".encode()).decode().rstrip("=")


def read_page_token(token: str) -> tuple[float, str]:
    """Time and id of the last entry of the page before.

    Raises:
        ApiError: 400, naming the token.
    """
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
        moment, _, identifier = text.partition("__")
        position = float(moment), identifier
    except ValueError:
        position = math.nan, ""
    if not math.isfinite(position[0]) or not position[1]:
        raise ApiError(400, f"Invalid next token: {token!r} did not come from this list")
    return position


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ApiError(400, f"Invalid startedAfter: {text!r}; it must be an ISO 8601 time with a zone")
    return moment
