"""Pages of lists, oldest entry first, with cursors of the kind that OpenKruise's manager gives."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ...protocol.openkruise import MOST_PER_PAGE, NEXT_TOKEN_HEADER
from .reading import Refused

_T = TypeVar("_T")
Position = tuple[str, str]
"""The time of an entry as text, and its ID."""


def page(entries: Sequence[tuple[Position, _T]], query: Mapping[str, str]) -> tuple[list[_T], dict[str, str]]:
    """Return the entries of the page that ``query`` asks for, and the header with the cursor of the next page."""
    limit = _limit(query.get("limit", ""))
    found = sorted(entries, key=lambda entry: entry[0])
    if cursor := query.get("nextToken"):
        after = _position(cursor)
        found = [entry for entry in found if entry[0] > after]
    headers = {NEXT_TOKEN_HEADER: _cursor(found[limit - 1][0])} if len(found) > limit else {}
    return [entry for _, entry in found[:limit]], headers


def _limit(text: str) -> int:
    if not text:
        return MOST_PER_PAGE
    digits = text.isascii() and text.isdigit() and len(text) <= 9
    if not digits or not 1 <= int(text) <= MOST_PER_PAGE:
        raise Refused(400, f"Invalid limit: {text}, must be between 1 and {MOST_PER_PAGE}")
    return int(text)


def _cursor(position: Position) -> str:
    text = json.dumps({"key": position[0], "id": position[1]}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _position(cursor: str) -> Position:
    """Return the position in a cursor. A malformed cursor counts as a time, so it gives a wrong page and no error."""
    try:
        values = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        key, entry_id = values["key"], values["id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return cursor, ""
    return (key, entry_id) if isinstance(key, str) and isinstance(entry_id, str) else (cursor, "")
