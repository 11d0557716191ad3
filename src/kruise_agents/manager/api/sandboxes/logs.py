"""What the programs of sandboxes wrote, over REST."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...sandboxes.log import LEVELS, LogLine, read_log, select
from ...sandboxes.sandbox import Sandbox
from ...sandboxes.service import SandboxService
from ..auth import own_sandbox
from ..errors import ApiError
from ..reading import one_of, whole_number
from ..replies import timestamp

MAX_LINES = 1000
MAX_SEARCH = 256


class LogRoutes:
    """The handlers, over the sandboxes of one manager."""

    def __init__(self, sandboxes: SandboxService) -> None:
        self._sandboxes = sandboxes

    def routes(self) -> list[Route]:
        """Their routes."""
        return [
            Route("/sandboxes/{sandbox_id}/logs", self.v1, methods=["GET"]),
            Route("/v2/sandboxes/{sandbox_id}/logs", self.v2, methods=["GET"]),
        ]

    async def v1(self, request: Request) -> Response:
        """The lines from a time on, oldest first."""
        query = request.query_params
        start, limit = _moment(query, "start"), _limit(query)
        lines = await _lines(own_sandbox(request, self._sandboxes))
        shown = list(islice(select(lines, cursor=start, backward=False, level=LEVELS[0], search=""), limit))
        plain = [{"timestamp": timestamp(line.at), "line": line.text} for line in shown]
        return JSONResponse({"logs": plain, "logEntries": [_entry(line) for line in shown]})

    async def v2(self, request: Request) -> Response:
        """The lines up to a time, newest first, or from it on; only those of a level, or with a text in them."""
        query = request.query_params
        cursor, limit = _moment(query, "cursor"), _limit(query)
        backward = one_of(query, "direction", ("backward", "forward")) == "backward"
        level, search = one_of(query, "level", LEVELS), query.get("search", "")
        if len(search) > MAX_SEARCH:
            raise ApiError(400, f"search has {len(search)} characters; it may have {MAX_SEARCH}")
        lines = await _lines(own_sandbox(request, self._sandboxes))
        shown = islice(select(lines, cursor=cursor, backward=backward, level=level, search=search), limit)
        return JSONResponse({"logs": [_entry(line) for line in shown]})


async def _lines(sandbox: Sandbox) -> list[LogLine]:
    return await asyncio.to_thread(read_log, sandbox.program.layout.log, sandbox.started_at)


def _entry(line: LogLine) -> dict[str, Any]:
    return {"timestamp": timestamp(line.at), "message": line.text, "level": line.level, "fields": {}}


def _moment(query: QueryParams, name: str) -> datetime | None:
    milliseconds = whole_number(query, name)
    if milliseconds is None:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise ApiError(400, f"{name} must be a time in milliseconds, got {milliseconds}") from None


def _limit(query: QueryParams) -> int:
    limit = whole_number(query, "limit")
    return MAX_LINES if limit is None else min(limit, MAX_LINES)
