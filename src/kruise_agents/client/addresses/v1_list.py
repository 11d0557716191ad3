"""Lists of sandboxes by template, by time or newest first, from a sandbox-manager without v2 routes.

Such a manager lists the oldest sandbox first, and takes ``template``, ``startedAfter`` and ``order`` for filters of
metadata. The client asks without these keys and selects from the answers.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from ...protocol.openkruise import MOST_PER_PAGE, NEXT_TOKEN_HEADER

Pages = Generator[dict[str, str], httpx.Response, httpx.Response]
"""A generator that yields the query of each page, is sent the response, and returns the response for the SDK."""
Position = tuple[datetime, str]
"""The start and the ID of a sandbox, by which lists are sorted."""

_TOKEN_MARK = "newest-first."  # noqa: S105 - it marks a token of this module
_UNKNOWN_START = datetime.min.replace(tzinfo=UTC)
_OF_THE_BODY = ("Content-Length", "Content-Encoding", "Transfer-Encoding", NEXT_TOKEN_HEADER)


@dataclass(frozen=True)
class Selection:
    """The sandboxes that a list is about, of all that the manager lists.

    Attributes:
        after: the last sandbox of the page before this one, in a list with the newest sandbox first.
    """

    template: str | None = None
    started_after: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    newest_first: bool = False
    after: Position | None = None

    @classmethod
    def read(
        cls, asked: Mapping[str, str], metadata: Mapping[str, str], token: str
    ) -> tuple[Selection | None, list[str]]:
        """Return the selection for query keys that the manager does not know, and the names of those that are unclear.

        There is no selection (None) if the list is to have all sandboxes in the manager's own order.
        """
        started_after = _moment(asked.get("startedAfter", ""))
        order = asked.get("order") or "asc"
        after = _read_token(token)
        unclear = [key for key in asked if key not in ("template", "startedAfter", "order")]
        if asked.get("startedAfter") and started_after is None:
            unclear.append("startedAfter")
        if order not in ("asc", "desc"):
            unclear.append("order")
        is_own = token.startswith(_TOKEN_MARK)
        if is_own != (after is not None) or (token and is_own != (order == "desc")):
            unclear.append("nextToken of a list in another order")
        if started_after is not None:
            # The manager cuts its times to whole seconds. A sandbox of that very second must not be missing.
            started_after = started_after.replace(microsecond=0)
        selection = cls(asked.get("template") or None, started_after, metadata, order == "desc", after)
        return (None if selection == cls() else selection), unclear

    def pages(self, query: Mapping[str, str]) -> Pages:
        """Yield the queries of the pages to fetch, and return the page that the SDK asked for."""
        return self._newest_first(query) if self.newest_first else self._oldest_first(query)

    def _oldest_first(self, query: Mapping[str, str]) -> Pages:
        """Return the first page that has a match, or the last page."""
        while True:
            response = yield dict(query)
            sandboxes = _sandboxes(response)
            if sandboxes is None:
                return response
            found = [sandbox for sandbox in sandboxes if self._has(sandbox)]
            token = response.headers.get(NEXT_TOKEN_HEADER)
            if found or not token or token == query.get("nextToken"):
                return _page(response, found, token)
            query = {**query, "nextToken": token}

    def _newest_first(self, query: Mapping[str, str]) -> Pages:
        """Fetch the whole list for each page, because the manager has no page tokens for this order."""
        text = query.get("limit") or str(MOST_PER_PAGE)
        limit = int(text) if text.isascii() and text.isdecimal() else 0
        if not 1 <= limit <= MOST_PER_PAGE:
            return (yield dict(query))  # the manager refuses it
        found: list[dict[str, Any]] = []
        token: str | None = None
        query = {key: value for key, value in query.items() if key != "nextToken"} | {"limit": str(MOST_PER_PAGE)}
        while True:
            response = yield {**query, "nextToken": token} if token else dict(query)
            sandboxes = _sandboxes(response)
            if sandboxes is None:
                return response
            found += [sandbox for sandbox in sandboxes if self._has(sandbox)]
            before, token = token, response.headers.get(NEXT_TOKEN_HEADER)
            if not token or token == before:
                break
        found.sort(key=_position, reverse=True)
        if self.after is not None:
            found = [sandbox for sandbox in found if _position(sandbox) < self.after]
        shown = found[:limit]
        return _page(response, shown, _token(shown[-1]) if len(found) > limit else None)

    def _has(self, sandbox: Mapping[str, Any]) -> bool:
        metadata = sandbox.get("metadata")
        started = _position(sandbox)[0]
        return (
            (self.template is None or str(sandbox.get("templateID")).lower() == self.template.lower())
            # A sandbox without a time is kept: the SDK raises an exception for it, as it does without a filter.
            and (self.started_after is None or started == _UNKNOWN_START or started >= self.started_after)
            and all(isinstance(metadata, dict) and metadata.get(key) == value for key, value in self.metadata.items())
        )


def _sandboxes(response: httpx.Response) -> list[dict[str, Any]] | None:
    try:
        sandboxes = response.json() if response.status_code == httpx.codes.OK else None
    except ValueError:
        return None
    is_list = isinstance(sandboxes, list) and all(isinstance(sandbox, dict) for sandbox in sandboxes)
    return sandboxes if is_list else None


def _page(response: httpx.Response, sandboxes: list[dict[str, Any]], token: str | None) -> httpx.Response:
    headers = response.headers.copy()
    for name in _OF_THE_BODY:
        headers.pop(name, None)
    if token:
        headers[NEXT_TOKEN_HEADER] = token
    return httpx.Response(response.status_code, headers=headers, content=json.dumps(sandboxes).encode())


def _position(sandbox: Mapping[str, Any]) -> Position:
    return _moment(str(sandbox.get("startedAt"))) or _UNKNOWN_START, str(sandbox.get("sandboxID"))


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _token(sandbox: Mapping[str, Any]) -> str:
    started, sandbox_id = _position(sandbox)
    content = json.dumps([started.isoformat(), sandbox_id]).encode()
    return _TOKEN_MARK + base64.urlsafe_b64encode(content).decode()


def _read_token(token: str) -> Position | None:
    if not token.startswith(_TOKEN_MARK):
        return None
    try:
        started, sandbox_id = json.loads(base64.urlsafe_b64decode(token.removeprefix(_TOKEN_MARK)))
    except (ValueError, TypeError):
        return None
    moment = _moment(str(started))
    return None if moment is None else (moment, str(sandbox_id))
