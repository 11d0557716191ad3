"""Lists of sandboxes: their filters, their order and their pages. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import unquote, unquote_plus

from ...sandboxes.sandbox import Sandbox
from ..errors import ApiError
from ..formats import Page, decode_token, encode_token, timestamp
from ..reading import Spec
from ..replies import shown_state

_ASCENDING_MARK = "__asc"
_STARTED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_STATES = frozenset({"running", "paused"})


def read_metadata(query: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the pairs of a metadata filter. A pair that is not ``key=value`` raises ApiError 400.

    The SDK percent-quotes every key and value and form-encodes the pairs. The HTTP client of the SDK encodes the result
    once more (e2b 2.8.0 ... 2.63.0). ``query`` comes without this last encoding; the function removes the other two.
    """
    pairs: dict[str, str] = {}
    for pair in unquote_plus(query.get(name, "")).split("&") if query.get(name) else ():
        key, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise ApiError(400, f"Error parsing metadata: {pair!r} is not one key=value pair")
        pairs[unquote(key)] = unquote(value)
    return pairs


def _read_template(query: Mapping[str, str], name: str) -> str | None:
    template = query.get(name)
    if template and ":" in template:
        raise ApiError(400, "Invalid template: tags are not supported here because sandboxes are not tag-scoped")
    return template or None


def _read_moment(query: Mapping[str, str], name: str) -> datetime | None:
    text = query.get(name)
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ApiError(400, f"Invalid startedAfter: {text!r}; it must be an ISO 8601 time with a zone")
    return moment


def _read_order(query: Mapping[str, str], name: str) -> str:
    order = query.get(name) or "desc"
    if order not in ("asc", "desc"):
        raise ApiError(400, f"Invalid order parameter: {order}; it is 'asc' or 'desc'")
    return order


def _read_states(query: Mapping[str, str], name: str) -> frozenset[str] | None:
    text = query.get(name)
    states = frozenset(text.split(",")) if text else None
    if states and (unknown := states - _STATES):
        raise ApiError(400, f"Invalid state: {', '.join(sorted(unknown))!r}; it is 'running', 'paused', or both")
    return states


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningListQuery(Page):
    """The query of ``GET /sandboxes``, E2B's older list, which shows no paused sandboxes."""

    metadata: Annotated[
        Mapping[str, str],
        Spec(
            read=read_metadata,
            type="string",
            description="only sandboxes with these key=value pairs, percent-encoded and joined by &",
        ),
    ] = field(default_factory=dict)
    template: Annotated[
        str | None,
        Spec(
            read=_read_template,
            description="only sandboxes of this template, or of snapshots of this name or ID; without a tag",
        ),
    ] = None
    started_after: Annotated[
        datetime | None,
        Spec(
            read=_read_moment,
            type="string",
            format="date-time",
            description="only sandboxes started or resumed then or later",
        ),
    ] = None
    order: Annotated[
        Literal["asc", "desc"],
        Spec(read=_read_order, description="by startedAt: newest first for desc, oldest first for asc"),
    ] = "desc"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery(RunningListQuery):
    """The query of ``GET /v2/sandboxes``."""

    state: Annotated[
        frozenset[str],
        Spec(
            read=_read_states,
            type="string",
            description="the states to list, joined by a comma: running, paused; left out: both",
        ),
    ] = _STATES


def page(
    sandboxes: Iterable[Sandbox], query: RunningListQuery, states: frozenset[str]
) -> tuple[list[Sandbox], str | None]:
    """Return one page, and the token of the next page or None. A wrong token raises ApiError 400."""
    ascending = query.order == "asc"
    after = _read_cursor(query.next_token, ascending=ascending)
    found = [sandbox for sandbox in sandboxes if shown_state(sandbox) in states and _matches(sandbox, query)]
    found.sort(key=_position, reverse=not ascending)
    if after is not None:
        found = [s for s in found if (_position(s) > after if ascending else _position(s) < after)]
    shown = found[: query.limit]
    return shown, _cursor(shown[-1], ascending=ascending) if len(found) > len(shown) else None


def _matches(sandbox: Sandbox, query: RunningListQuery) -> bool:
    return (
        (query.template is None or query.template.lower() in _template_names(sandbox))
        and (query.started_after is None or sandbox.started_at >= query.started_after)
        and all(sandbox.metadata.get(key) == value for key, value in query.metadata.items())
    )


def _template_names(sandbox: Sandbox) -> tuple[str, str]:
    # A filter has no tag, because E2B does not record the tag that a sandbox was made from.
    name = sandbox.template.name
    return name, name.partition(":")[0]


def _position(sandbox: Sandbox) -> tuple[str, str]:
    return timestamp(sandbox.started_at), sandbox.id


def _cursor(sandbox: Sandbox, *, ascending: bool) -> str:
    return encode_token("__".join(_position(sandbox)) + (_ASCENDING_MARK if ascending else ""))


def _read_cursor(token: str, *, ascending: bool) -> tuple[str, str] | None:
    if not token:
        return None
    started, _, rest = decode_token(token).partition("__")
    sandbox_id, mark, _ = rest.partition(_ASCENDING_MARK)
    if _STARTED.fullmatch(started) is None or not sandbox_id or bool(mark) is not ascending:
        raise ApiError(400, f"Invalid next token: {token!r} did not come from this list in this order")
    return started, sandbox_id
