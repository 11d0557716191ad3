"""What sandboxes use, over REST."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...sandboxes.service import SandboxService
from ...sandboxes.usage_history import Sample, UsageHistory
from ..auth import own_sandbox, owner_of
from ..errors import ApiError
from ..reading import whole_number

MAX_IDS = 100
_LEAST_MILLISECONDS = 10**11
"""Larger times are milliseconds, which e2b 2.8.0 ... 2.10.1 sends; as seconds this is in the year 5138."""


class MetricsRoutes:
    """The handlers, over the sandboxes of one manager and their measurements."""

    def __init__(self, sandboxes: SandboxService, measurements: UsageHistory) -> None:
        self._sandboxes = sandboxes
        self._measurements = measurements

    def routes(self) -> list[Route]:
        """Their routes; the first one goes before that of a sandbox called ``metrics``."""
        return [
            Route("/sandboxes/metrics", self.of_several, methods=["GET"]),
            Route("/sandboxes/{sandbox_id}/metrics", self.of_one, methods=["GET"]),
        ]

    async def of_one(self, request: Request) -> Response:
        """The samples of a sandbox between two times, oldest first."""
        query = request.query_params
        start, end = (_seconds(query, name) for name in ("start", "end"))
        sandbox = own_sandbox(request, self._sandboxes)
        samples = await self._measurements.history(sandbox)
        shown = [
            sample
            for sample in samples
            # The SDK cuts its times to whole seconds.
            if (start is None or sample.at >= start) and (end is None or int(sample.at) <= end)
        ]
        return JSONResponse([_sample(sample) for sample in shown])

    async def of_several(self, request: Request) -> Response:
        """The last sample of each of some sandboxes, without those that have none or are not the caller's."""
        ids = [one for one in request.query_params.get("sandbox_ids", "").split(",") if one]
        if not 1 <= len(ids) <= MAX_IDS:
            raise ApiError(400, f"sandbox_ids must be 1 to {MAX_IDS} ids with commas between them, got {len(ids)}")
        found = {one.id: one for one in self._sandboxes.all(owner_of(request))}
        wanted = [found[one] for one in dict.fromkeys(ids) if one in found]
        histories = await asyncio.gather(*(self._measurements.history(sandbox) for sandbox in wanted))
        last = {one.id: _sample(samples[-1]) for one, samples in zip(wanted, histories, strict=True) if samples}
        return JSONResponse({"sandboxes": last})


def _sample(sample: Sample) -> dict[str, Any]:
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


def _seconds(query: QueryParams, name: str) -> float | None:
    value = whole_number(query, name)
    return value / 1000 if value is not None and value > _LEAST_MILLISECONDS else value
