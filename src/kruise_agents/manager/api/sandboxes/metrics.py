"""The routes of the resource use of sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypedDict

from starlette.requests import Request

from ...sandboxes.service import SandboxService
from ...sandboxes.usage_history import KEPT, Sample, UsageHistory
from ..auth import own_sandbox, owner_of
from ..errors import ApiError
from ..formats import Timestamp
from ..reading import Spec, whole_number
from ..routes import Resource, Topic, operation

MAX_IDS = 100
_LEAST_MILLISECONDS = 10**11
"""Larger numbers count milliseconds, which e2b 2.8.0 ... 2.10.1 sends. As seconds, this number is in the year 5138."""


def _read_seconds(query: Mapping[str, str], name: str) -> float | None:
    value = whole_number(query, name)
    return value / 1000 if value is not None and value > _LEAST_MILLISECONDS else value


def _read_ids(query: Mapping[str, str], name: str) -> list[str]:
    ids = [sandbox_id for sandbox_id in query.get(name, "").split(",") if sandbox_id]
    if not 1 <= len(ids) <= MAX_IDS:
        raise ApiError(400, f"{name} must be 1 to {MAX_IDS} ids with commas between them, got {len(ids)}")
    return ids


UnixTime = Annotated[
    float | None,
    Spec(
        read=_read_seconds,
        type="integer",
        minimum=0,
        description="seconds since 1970; a number above 10^11 counts milliseconds",
    ),
]


@dataclass(frozen=True, slots=True)
class _HistoryQuery:
    start: UnixTime = None
    end: UnixTime = None


@dataclass(frozen=True, slots=True)
class _LastMetricsQuery:
    sandbox_ids: Annotated[
        list[str],
        Spec(name="sandbox_ids", read=_read_ids, type="string", description=f"1 to {MAX_IDS} IDs, joined by commas"),
    ]


class _MetricReply(TypedDict):
    timestamp: Timestamp
    timestampUnix: int
    cpuCount: Annotated[int, Spec(description="processors that the sandbox may use")]
    cpuUsedPct: Annotated[
        float, Spec(description="use of these processors since the measurement before, or since the start, 0 to 100")
    ]
    memUsed: Annotated[int, Spec(description="bytes")]
    memTotal: Annotated[int, Spec(description="bytes: the limit, or the machine's memory if that is less")]
    memCache: Annotated[int, Spec(description="bytes")]
    diskUsed: Annotated[int, Spec(description="bytes")]
    diskTotal: Annotated[int, Spec(description="bytes: the limit, or the size of the disk if that is less")]


class _LastMetricsReply(TypedDict):
    sandboxes: Mapping[str, _MetricReply]


class MetricsRoutes(Resource):
    """The routes of metrics. They come before ``/sandboxes/{sandbox_id}``, which would match ``/sandboxes/metrics``."""

    topic = Topic.OBSERVATION

    def __init__(self, sandboxes: SandboxService, usage: UsageHistory) -> None:
        self._sandboxes = sandboxes
        self._usage = usage

    @operation(
        "GET /sandboxes/metrics",
        "Get the latest measurements of several sandboxes",
        (400,),
        note="Sandboxes without measurements, or of another API key, are left out.",
    )
    async def of_several(self, request: Request, query: _LastMetricsQuery) -> _LastMetricsReply:
        own = {sandbox.id: sandbox for sandbox in self._sandboxes.all(owner_of(request))}
        wanted = [own[sandbox_id] for sandbox_id in dict.fromkeys(query.sandbox_ids) if sandbox_id in own]
        histories = await asyncio.gather(*(self._usage.history(sandbox) for sandbox in wanted))
        last = {sandbox.id: _sample(samples[-1]) for sandbox, samples in zip(wanted, histories, strict=True) if samples}
        return _LastMetricsReply(sandboxes=last)

    @operation(
        "GET /sandboxes/{sandbox_id}/metrics",
        "Get the measurements of a sandbox, oldest first",
        (400, 404),
        note=f"The last {KEPT} at most, since the start of the manager.",
    )
    async def of_one(self, request: Request, query: _HistoryQuery) -> list[_MetricReply]:
        start, end = query.start, query.end
        samples = await self._usage.history(own_sandbox(request, self._sandboxes))
        return [
            _sample(sample)
            for sample in samples
            # The SDK cuts the times that it sends to whole seconds.
            if (start is None or sample.at >= start) and (end is None or int(sample.at) <= end)
        ]


def _sample(sample: Sample) -> _MetricReply:
    return {
        "timestamp": datetime.fromtimestamp(int(sample.at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "timestampUnix": int(sample.at),
        "cpuCount": sample.cpu_count,
        "cpuUsedPct": sample.cpu_used_pct,
        "memUsed": sample.mem_used,
        "memTotal": sample.mem_total,
        "memCache": sample.mem_cache,
        "diskUsed": sample.disk_used,
        "diskTotal": sample.disk_total,
    }
