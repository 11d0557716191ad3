"""What the watchdog measures and does, without a manager and without sandboxes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
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


HOG = """
sleep 60 &  # in place of the sandbox's program, which is spared
sleep 0.1
"$0" -c 'import time; kept = bytearray(b"x") * 300_000_000; time.sleep(60)' &
wait
"""


@pytest.mark.live
def test_an_error_at_one_kill_does_not_stop_the_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_INTERVAL", 0.01)
    layout = Layout(tmp_path)
    layout.log.touch()
    asyncio.run(_first_kill_fails(layout))


async def _first_kill_fails(layout: Layout) -> None:
    second = asyncio.Event()
    told: list[str] = []

    async def tell(_pid: int, reason: str) -> None:
        told.append(reason)
        if len(told) == 1:
            raise RuntimeError("a test says so")
        second.set()

    watching = Watchdog(lambda _folder: 0, memory=True)
    with subprocess.Popen(["sh", "-c", HOG, sys.executable], start_new_session=True) as process:
        try:
            watching.add("isandbox", process.pid, layout, Limits(memory=100 * MIB), lambda: None, tell)
            await asyncio.wait_for(second.wait(), 10)
        finally:
            watching.remove("isandbox")
            os.killpg(process.pid, signal.SIGKILL)
    assert "of 100 MiB of memory, and this process" in told[1]
