"""The history of a sandbox's resource use, over REST and the SDK: dense while a client asks, else sparse."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from e2b_code_interpreter import Sandbox
from hypothesis import given

from kruise_agents.manager.sandboxes.control_client import NoAnswerError
from kruise_agents.manager.sandboxes.lifecycle import State
from kruise_agents.manager.sandboxes.usage_history import KEPT, UsageHistory, read_sample
from support.managers import wait_for
from support.mutations import broken, times

ANSWER = {
    "cpu_count": 2,
    "cpu_used_pct": 1.5,
    "mem_used": 3,
    "mem_total": 4,
    "mem_cache": 5,
    "disk_used": 6,
    "disk_total": 7,
}
FIELDS = {
    "timestamp",
    "timestampUnix",
    "cpuCount",
    "cpuUsedPct",
    "memUsed",
    "memTotal",
    "memCache",
    "diskUsed",
    "diskTotal",
}


def test_the_sdk_gets_the_metrics_of_a_sandbox(sandbox: Sandbox) -> None:
    sandbox.run_code("hoard = bytearray(64 * 1024 * 1024)")
    (*_, last) = sandbox.get_metrics()
    assert last.mem_total > last.mem_used > 64 * 1024 * 1024
    assert last.cpu_count >= 1
    assert 0 < last.disk_used < last.disk_total
    assert abs(last.timestamp - datetime.now(UTC)) < timedelta(seconds=10)


def test_samples_come_oldest_first_and_between_two_times(sandbox: Sandbox, api: httpx.Client) -> None:
    path = f"/sandboxes/{sandbox.sandbox_id}/metrics"
    samples: list[Any] = []

    def several() -> bool:
        samples[:] = api.get(path).json()
        return len(samples) >= 3

    wait_for(several, 60, "a third sample")
    assert all(set(one) == FIELDS for one in samples)
    times = [one["timestampUnix"] for one in samples]
    assert times == sorted(set(times))
    assert datetime.fromisoformat(samples[0]["timestamp"]).timestamp() == times[0]
    cut = times[1]
    for unit in (1, 1000):  # e2b 2.8.0 ... 2.10.1 sends milliseconds
        assert api.get(path, params={"end": cut * unit}).json() == samples[:2]
        assert api.get(path, params={"start": cut * unit}).json()[:2] == samples[1:3]
    assert api.get(path, params={"end": times[0] - 1000}).json() == []
    assert api.get(path, params={"start": "yesterday"}).status_code == 400


def test_the_last_sample_of_several(sandbox: Sandbox, api: httpx.Client) -> None:
    answer = api.get("/sandboxes/metrics", params={"sandbox_ids": f"{sandbox.sandbox_id},i0"})
    assert set(answer.json()["sandboxes"]) == {sandbox.sandbox_id}
    assert set(answer.json()["sandboxes"][sandbox.sandbox_id]) == FIELDS
    assert api.get("/sandboxes/metrics").status_code == 400


def test_a_paused_sandbox_has_its_past(sandbox: Sandbox, api: httpx.Client) -> None:
    before = sandbox.get_metrics()
    sandbox.pause()
    path = f"/sandboxes/{sandbox.sandbox_id}/metrics"
    assert len(api.get(path).json()) == len(before)


@pytest.mark.parametrize(
    "change",
    [{"mem_used": "3"}, {"mem_used": None}, {"cpu_used_pct": float("nan")}, {"disk_used": -1}, {"mem_total": 10**30}],
)
def test_a_measurement_that_was_tampered_with_is_none(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        read_sample(json.dumps(ANSWER | change).encode(), 0)


@pytest.mark.parametrize("text", [b"[]", b"", b"{", b"\xff", b'"' + b"x" * 100, b"[" * 10**6])
def test_what_is_no_measurement_at_all_is_none_either(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json says it in many ways
        read_sample(text, 0)


class Measured:
    """A sandbox that counts how often it is measured."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.state = State.RUNNING
        self.access_token = None
        self.started_at = datetime.fromtimestamp(0, UTC)
        self.process = SimpleNamespace(control=SimpleNamespace(measure=self._measure))
        self.times = 0
        self.broken = False

    async def _measure(self, _token: str | None) -> bytes:
        self.times += 1
        if self.broken:
            raise NoAnswerError("gone")
        return json.dumps(ANSWER).encode()


def test_only_what_is_asked_about_is_measured_often() -> None:
    async def walk() -> None:
        now = [0.0]
        asked, quiet, paused = sandboxes = [Measured("asked"), Measured("quiet"), Measured("paused")]
        paused.state = State.PAUSED
        measurements = UsageHistory(lambda: cast("Any", sandboxes), clock=lambda: now[0])
        assert len(await measurements.history(cast("Any", asked))) == 1
        for now[0] in range(5, 301, 5):
            await measurements.sweep()
        assert (asked.times, quiet.times, paused.times) == (60, 5, 0)
        for now[0] in range(305, 901, 5):
            await measurements.sweep()
        assert (asked.times, quiet.times) == (70, 15)
        # What is gone is forgotten.
        del sandboxes[0]
        await measurements.sweep()
        assert len(await measurements.history(cast("Any", asked))) == 1

    asyncio.run(walk())


def test_what_cannot_be_measured_stops_nothing_and_memory_is_bounded() -> None:
    async def walk() -> None:
        now = [0.0]
        broken, sound = sandboxes = [Measured("broken"), Measured("sound")]
        broken.broken = True
        measurements = UsageHistory(lambda: cast("Any", sandboxes), clock=lambda: now[0])
        for number in range(KEPT + 10):
            now[0] = 60.0 * number
            await measurements.sweep()
        assert await measurements.history(cast("Any", broken)) == []
        samples = await measurements.history(cast("Any", sound))
        assert len(samples) == KEPT
        assert samples[-1].at == now[0]

    asyncio.run(walk())


@times(3)
@given(
    broken([json.dumps(ANSWER).encode()], [b"[", b"{", b"null", b'"', b"1e999", b"-1", b"9" * 5000, b"\xff", b"NaN"])
)
def test_a_broken_measurement_is_a_sample_or_refused(answer: bytes) -> None:
    with contextlib.suppress(ValueError):
        sample = read_sample(answer, 1.0)
        assert all(0 <= value < 2**63 for value in astuple(sample))
