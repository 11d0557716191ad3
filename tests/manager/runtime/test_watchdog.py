"""The memory watchdog: its measurements and its actions, without a manager and without sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kruise_agents.manager.runtime import MIB, Layout, Limits, Watchdog
from kruise_agents.manager.runtime.limits import disk, memory, processes, watchdog
from kruise_agents.manager.runtime.limits.memory import SandboxMemory
from kruise_agents.manager.runtime.limits.processes import Memory, Process, Processes, shared_memory
from support.managers import children, wait_for


def test_files_in_the_machines_own_shared_memory_are_no_sandboxs() -> None:
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.write(b"x" * MIB)
        file.flush()
        assert shared_memory(os.getpid()) == (0, None)


def test_a_crowd_that_takes_long_to_look_at_is_looked_at_by_surveys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def slow_bound(process: Process) -> Memory:
        looked.append(process.pid)
        end = time.thread_time() + 2 * memory._SLOW_SECONDS
        while time.thread_time() < end:
            pass
        return Memory(own=200 * MIB)

    monkeypatch.setattr(memory, "memory_bound", slow_bound)
    monkeypatch.setattr(memory, "_PACE", 0)
    crowd = SandboxMemory(1, 100 * MIB, 0)
    family = [Process(1, 0, 1, 0, 1, 1), Process(2, 1, 1, 0, 1, 2), Process(3, 1, 1, 0, 2, 3)]
    assert [victim.pid for victim, _ in crowd.look(family).victims] == [3]
    looked.clear()
    assert crowd.look(family).victims == []
    assert looked == []
    assert crowd.wants_survey
    assert [victim.pid for victim, _ in crowd.survey(family).victims] == [3]
    assert looked == [1, 2, 3]


def test_a_look_beside_a_survey_takes_no_figures_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_meanwhile(part: Memory, **figures: Any) -> Memory:
        if "grown" in figures and len(crowds) > 1:
            crowd.look(crowds.pop())
        return replace(part, **figures)

    family = [Process(1, 0, 1, 0, 1, 1), Process(2, 1, 1, 0, 1, 2)]
    crowds = [family, family[:1]]
    monkeypatch.setattr(memory, "memory_bound", lambda _: Memory(own=MIB))
    monkeypatch.setattr(memory, "replace", look_meanwhile)
    crowd = SandboxMemory(1, 100 * MIB, 0)
    assert crowd.survey(family).end is None
    assert len(crowds) == 1


HOG = """
sleep 60 &  # in place of the sandbox's program, which is spared
sleep 0.1
"$0" -c 'import time; kept = bytearray(b"x") * 300_000_000; time.sleep(60)' &
wait $!
"""
CROWD = "sleep 60 & sleep 60 & sleep 60 & sleep 60 & wait"


@pytest.mark.live
def test_a_process_is_killed_even_if_the_kill_cannot_be_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_INTERVAL", 0.01)
    reasons: list[str] = []

    async def tell(_pid: int, reason: str) -> None:
        reasons.append(reason)
        raise RuntimeError("a test says so")

    async def scene() -> None:
        watching = Watchdog(lambda _folder: 0, memory=True)
        with shell(HOG) as process:
            watching.add("isandbox", process.pid, layout_in(tmp_path), Limits(memory=100 * MIB), lambda: None, tell)
            try:
                await asyncio.to_thread(process.wait, 10)
            finally:
                watching.remove("isandbox")

    asyncio.run(scene())
    assert "of 100 MiB of memory, and this process" in reasons[0]


@pytest.mark.live
def test_work_for_others_that_takes_long_delays_no_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_INTERVAL", 0.01)
    monkeypatch.setattr(disk, "_SECONDS", 0.01)

    async def tell(_pid: int, _reason: str) -> None:
        raise AssertionError("nothing is killed here")

    async def scene() -> None:
        crowded = asyncio.Event()
        occupied, threads = threading.Event(), 64  # more than Python gives to asyncio.to_thread() on any machine
        work = [asyncio.create_task(asyncio.to_thread(occupied.wait)) for _ in range(threads)]
        await asyncio.sleep(0)  # lets them begin
        watching = Watchdog(lambda _folder: 4096 * MIB, memory=True)
        with shell(CROWD) as process:
            layouts = layout_in(tmp_path / "first"), layout_in(tmp_path / "second")
            watching.add("ifirst", process.pid, layouts[0], Limits(processes=1), crowded.set, tell)
            watching.add("isecond", process.pid, layouts[1], Limits(disk=MIB), lambda: None, tell)
            try:
                await asyncio.wait_for(crowded.wait(), 10)
                async with asyncio.timeout(10):
                    while resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[0] != 0:  # writing is refused
                        await asyncio.sleep(0.01)
            finally:
                watching.remove("ifirst")
                watching.remove("isecond")
                occupied.set()
                await asyncio.gather(*work)

    asyncio.run(scene())


@pytest.mark.live
def test_an_error_at_one_end_leaves_no_other_sandbox_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_INTERVAL", 0.01)

    def fail() -> None:
        raise RuntimeError("a test says so")

    async def tell(_pid: int, _reason: str) -> None:
        raise AssertionError("nothing is killed here")

    async def scene() -> None:
        ended = asyncio.Event()
        watching = Watchdog(lambda _folder: 0, memory=True)
        with shell(CROWD) as process:
            for name, end in (("ifirst", fail), ("isecond", ended.set)):
                watching.add(name, process.pid, layout_in(tmp_path / name), Limits(processes=1), end, tell)
            try:
                await asyncio.wait_for(ended.wait(), 10)
            finally:
                watching.remove("ifirst")
                watching.remove("isecond")

    asyncio.run(scene())


@pytest.mark.live
def test_looks_go_on_while_the_memory_of_the_machine_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: str) -> bytes:
        if path == "/proc/meminfo":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return content(path)

    async def tell(_pid: int, _reason: str) -> None:
        raise AssertionError("nothing is killed here")

    async def scene() -> None:
        ended = asyncio.Event()
        watching = Watchdog(lambda _folder: 0, memory=True)
        with shell(CROWD) as process:
            watching.add("icrowded", process.pid, layout_in(tmp_path), Limits(processes=1), ended.set, tell)
            try:
                await asyncio.wait_for(ended.wait(), 10)
            finally:
                watching.remove("icrowded")

    content = processes._content
    monkeypatch.setattr(processes, "_content", read)
    asyncio.run(scene())


def layout_in(folder: Path) -> Layout:
    folder.mkdir(exist_ok=True)
    layout = Layout(folder)
    layout.log.touch()
    return layout


@contextlib.contextmanager
def shell(script: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sh", "-c", script, sys.executable], start_new_session=True) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.live
def test_processor_time_of_ended_children_counts() -> None:
    script = "\"$0\" -c 'import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass'; sleep 60"
    with shell(script) as process:
        wait_for(lambda: any(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in children(process.pid)))
        assert sum(member.ticks for member in Processes().family(process.pid)) >= 20
