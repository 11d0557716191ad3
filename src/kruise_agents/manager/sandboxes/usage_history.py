"""The history of each sandbox's resource use, as the sandbox's envd measures it.

A running sandbox is measured about once a minute. In the five minutes after a request for the history, the sandbox is
measured about every five seconds. A request also measures a running sandbox at once, unless the last sample is newer
than about five seconds. A measurement walks through all processes of a sandbox, so more measurements would keep a
machine with many idle sandboxes busy.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from .control_client import NoAnswerError
from .lifecycle import State
from .sandbox import Sandbox

EVERY_SECONDS = 5.0
UNASKED_SECONDS = 60.0
ASKED_SECONDS = 300.0
"""Seconds during which, after a request for the history, the sandbox is measured about every five seconds."""
KEPT = 720
"""The number of samples that are kept of a sandbox: one hour at five seconds each, half a day at a minute each."""
_AT_ONCE = 4
_WHOLE = ("cpu_count", "mem_used", "mem_total", "mem_cache", "disk_used", "disk_total")
_SLACK = 0.5  # seconds by which a measurement may be early

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """A measurement. Sizes are in bytes, ``at`` is in seconds since the epoch."""

    at: float
    cpu_count: int
    cpu_used_pct: float
    mem_used: int
    mem_total: int
    mem_cache: int
    disk_used: int
    disk_total: int


@dataclass(slots=True)
class _Track:
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=KEPT))
    asked: float = -math.inf
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class UsageHistory:
    """The samples of one manager's sandboxes, kept in memory. ``sandboxes`` returns the present sandboxes."""

    def __init__(self, sandboxes: Callable[[], Iterable[Sandbox]], clock: Callable[[], float] = time.time) -> None:
        self._sandboxes = sandboxes
        self._clock = clock
        self._tracks: dict[str, _Track] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def history(self, sandbox: Sandbox) -> list[Sample]:
        """Return the kept samples of a sandbox, oldest first.

        A running sandbox is measured first, unless its last sample is less than about five seconds old.
        """
        track = self._tracks.setdefault(sandbox.id, _Track())
        track.asked = self._clock()
        await self._measure(sandbox, EVERY_SECONDS)
        return list(track.samples)

    async def sweep(self) -> None:
        """Measure the sandboxes that are due, a few at once, and forget the samples of sandboxes that are gone."""
        present = {sandbox.id: sandbox for sandbox in self._sandboxes()}
        for gone in self._tracks.keys() - present.keys():
            del self._tracks[gone]
        due = iter([(sandbox, interval) for sandbox in present.values() if (interval := self._due(sandbox))])
        await asyncio.gather(*(self._measure_all(due) for _ in range(_AT_ONCE)))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await self.sweep()
            except Exception:  # an error at one sandbox must not end all measurements
                logger.exception("sandboxes could not be measured")

    async def _measure_all(self, due: Iterator[tuple[Sandbox, float]]) -> None:
        for sandbox, interval in due:
            await self._measure(sandbox, interval)

    def _due(self, sandbox: Sandbox) -> float | None:
        """Return the present interval between measurements of a sandbox if a measurement is due, else None."""
        track = self._tracks.get(sandbox.id)
        asked = track is not None and self._clock() - track.asked < ASKED_SECONDS
        interval = EVERY_SECONDS if asked else UNASKED_SECONDS
        last = track.samples[-1].at if track is not None and track.samples else sandbox.started_at.timestamp()
        return interval if self._clock() - last >= interval - _SLACK else None

    async def _measure(self, sandbox: Sandbox, interval: float) -> None:
        track = self._tracks.setdefault(sandbox.id, _Track())
        async with track.lock:
            if sandbox.state is not State.RUNNING:
                return
            if track.samples and self._clock() - track.samples[-1].at < interval - _SLACK:
                return
            try:
                answer = await sandbox.process.control.measure(sandbox.access_token)
                track.samples.append(read_sample(answer, self._clock()))
            except (NoAnswerError, OSError, ValueError) as error:
                logger.info("sandbox %s could not be measured: %s", sandbox.id, error)


def read_sample(answer: bytes, at: float) -> Sample:
    """Parse envd's answer. Raises ValueError if it is no measurement: code in the sandbox can forge the answer."""
    try:
        values = json.loads(answer)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(values, dict):
        raise ValueError("the measurement is no JSON object")  # noqa: TRY004 - one kind of error for all
    whole = {name: int(_number(values, name)) for name in _WHOLE}
    return Sample(at=at, cpu_used_pct=_number(values, "cpu_used_pct"), **whole)


def _number(values: dict[str, object], name: str) -> float:
    value = values.get(name)
    if not isinstance(value, int | float) or not 0 <= value < 2**63:  # NaN fails this comparison too
        raise ValueError(f"the measurement's {name!r} is no number that can be")
    return value
