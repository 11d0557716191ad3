"""What the watchdog measures and does, without a manager and without sandboxes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from kruise_agents.manager.runtime import MIB, Layout, Limits, Watchdog
from kruise_agents.manager.runtime.limits import watchdog
from kruise_agents.manager.runtime.limits.processes import shared_memory_files


def test_files_in_the_machines_own_shared_memory_are_no_sandboxs() -> None:
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.write(b"x" * MIB)
        file.flush()
        assert shared_memory_files(os.getpid()) == 0


@pytest.mark.live
def test_an_error_at_the_end_of_one_look_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_INTERVAL", 0.01)
    monkeypatch.setattr(watchdog, "_INTERVAL_WHEN_CLOSE", 0.01)
    layout = Layout(tmp_path)
    layout.log.touch()
    asyncio.run(_end_fails_once(layout))


async def _end_fails_once(layout: Layout) -> None:
    second = asyncio.Event()
    calls = 0

    def end() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a test says so")
        second.set()

    async def tell(_pid: int, _reason: str) -> None:
        pass

    watching = Watchdog(lambda _folder: 0, memory=True)
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            watching.add("isandbox", process.pid, layout, Limits(memory=1), end, tell)
            await asyncio.wait_for(second.wait(), 10)
        finally:
            watching.remove("isandbox")
            process.kill()
