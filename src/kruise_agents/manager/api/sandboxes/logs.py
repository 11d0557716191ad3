"""The routes of the logs of sandboxes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Literal, TypedDict, get_args

from starlette.requests import Request

from ...sandboxes.log import LogLine, read_log, select
from ...sandboxes.sandbox import Sandbox
from ...sandboxes.service import SandboxService
from ..auth import own_sandbox
from ..errors import ApiError
from ..formats import Timestamp, timestamp
from ..reading import Spec, whole_number
from ..routes import Resource, Topic, operation

MAX_LINES = 1000
MAX_SEARCH = 256
_NOTE = "The servers are envd and the code interpreter. Of a longer log, only the last MiB is read."


def _read_moment(query: Mapping[str, str], name: str) -> datetime | None:
    milliseconds = whole_number(query, name)
    if milliseconds is None:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise ApiError(400, f"{name} must be a time in milliseconds, got {milliseconds}") from None


def _check_search(name: str, text: str) -> None:
    if len(text) > MAX_SEARCH:
        raise ApiError(400, f"{name} has {len(text)} characters; it may have {MAX_SEARCH}")


Moment = Annotated[
    datetime | None,
    Spec(
        read=_read_moment,
        type="integer",
        minimum=0,
        description="a time in milliseconds since 1970, from which the answer begins",
    ),
]
Lines = Annotated[int, Spec(minimum=0, description=f"lines; more than {MAX_LINES} count as {MAX_LINES}")]
Level = Literal["debug", "info", "warn", "error"]
LEVELS = list(get_args(Level))


@dataclass(frozen=True, slots=True)
class _LogsQuery:
    start: Moment = None
    limit: Lines = MAX_LINES


@dataclass(frozen=True, slots=True)
class _LogEntriesQuery:
    cursor: Moment = None
    limit: Lines = MAX_LINES
    direction: Annotated[
        Literal["backward", "forward"], Spec(description="newest first for backward, oldest first for forward")
    ] = "backward"
    level: Annotated[Level, Spec(description="this level and higher ones")] = "debug"
    search: Annotated[str, Spec(check=_check_search, maxLength=MAX_SEARCH, description="only lines with this text")] = (
        ""
    )


class _LogEntryReply(TypedDict):
    timestamp: Timestamp
    message: str
    level: Annotated[str, Spec(enum=LEVELS)]
    fields: Annotated[Mapping[str, str], Spec(description="the `logger`")]


class _LogLineReply(TypedDict):
    timestamp: Timestamp
    line: Annotated[str, Spec(description="a JSON object with `level`, `logger` and `message`")]


class _LogsReply(TypedDict):
    logs: Sequence[_LogLineReply]
    logEntries: Annotated[Sequence[_LogEntryReply], Spec(description="the same lines with their levels")]


class _LogEntriesReply(TypedDict):
    logs: Sequence[_LogEntryReply]


class LogRoutes(Resource):
    """The routes of logs. The older route returns the oldest line first; v2 can filter lines and reverse the order."""

    topic = Topic.OBSERVATION

    def __init__(self, sandboxes: SandboxService) -> None:
        self._sandboxes = sandboxes

    @operation(
        "GET /sandboxes/{sandbox_id}/logs",
        "Read the log of a sandbox's own servers, oldest line first",
        (400, 404),
        note=_NOTE,
    )
    async def v1(self, request: Request, query: _LogsQuery) -> _LogsReply:
        lines = await _lines(own_sandbox(request, self._sandboxes))
        found = select(lines, cursor=query.start, backward=False, level="debug", search="")
        shown = list(islice(found, min(query.limit, MAX_LINES)))
        reply: _LogsReply = {
            "logs": [{"timestamp": timestamp(line.at), "line": _json(line)} for line in shown],
            "logEntries": [_entry(line) for line in shown],
        }
        return reply

    @operation(
        "GET /v2/sandboxes/{sandbox_id}/logs",
        "Read the log of a sandbox's own servers, in either direction",
        (400, 404),
        note=_NOTE,
    )
    async def v2(self, request: Request, query: _LogEntriesQuery) -> _LogEntriesReply:
        lines = await _lines(own_sandbox(request, self._sandboxes))
        backward = query.direction == "backward"
        found = select(lines, cursor=query.cursor, backward=backward, level=query.level, search=query.search)
        reply: _LogEntriesReply = {"logs": [_entry(line) for line in islice(found, min(query.limit, MAX_LINES))]}
        return reply


async def _lines(sandbox: Sandbox) -> list[LogLine]:
    return await asyncio.to_thread(read_log, sandbox.process.layout.log, sandbox.started_at)


def _entry(line: LogLine) -> _LogEntryReply:
    fields = {"logger": line.logger}
    return {"timestamp": timestamp(line.at), "message": line.text, "level": line.level, "fields": fields}


def _json(line: LogLine) -> str:
    """Return a line as E2B's log collector writes it. ``e2b sandbox logs`` parses it (@e2b/cli 2.19.0)."""
    return json.dumps({"level": line.level, "logger": line.logger, "message": line.text}, ensure_ascii=False)
