"""The resources that a sandbox uses, measured on its own processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from e2b import Sandbox

from kruise_agents.sandbox.envd.disk_space import DiskUsage
from kruise_agents.sandbox.envd.metrics import Metrics
from support.managers import RunningManager

KEYS = [
    *("ts", "cpu_count", "cpu_used_pct", "mem_total_mib", "mem_used_mib"),
    *("mem_total", "mem_used", "mem_cache", "disk_used", "disk_total"),
]
# A family of two: reads a command a line, and answers each with a line.
FAMILY = """
import os, subprocess, sys
sleeper = subprocess.Popen(["sleep", "60"])
print("ready", flush=True)
for line in sys.stdin:
    if line == "fill\\n":
        kept = bytearray(os.urandom(1 << 20)) * 64
    if line == "burn\\n":
        subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.6: pass"])
    print("done", flush=True)
sleeper.kill()
"""


class Family:
    """A family of processes that carries out orders."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answered()

    def do(self, what: str) -> None:
        self._pipe(self.process.stdin).write(what + "\n")
        self._pipe(self.process.stdin).flush()
        self._answered()

    def end(self) -> None:
        self._pipe(self.process.stdin).close()
        self.process.wait()
        self._pipe(self.process.stdout).close()

    def _answered(self) -> None:
        assert self._pipe(self.process.stdout).readline()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    family.end()


def test_the_answer_has_every_key_and_its_unit(served_envd: Any) -> None:
    reply = httpx.get(served_envd.url + "/metrics")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    found = reply.json()
    assert list(found) == KEYS
    assert abs(found["ts"] - time.time()) < 60
    assert found["cpu_count"] == len(os.sched_getaffinity(0))
    assert found["mem_total_mib"] == found["mem_total"] >> 20
    assert found["mem_used_mib"] == found["mem_used"] >> 20
    assert 0 < found["mem_used"] < found["mem_total"]
    assert 0 < found["disk_used"] < found["disk_total"]
    assert round(found["cpu_used_pct"], 2) == found["cpu_used_pct"]


def test_the_token_is_needed(served_envd: Any) -> None:
    served_envd.state.access_token = "secret"
    assert httpx.get(served_envd.url + "/metrics").status_code == 401


@pytest.mark.live
def test_memory_is_that_of_the_family_alone(family: Family) -> None:
    metrics = Metrics([], family.process.pid)
    before = metrics.measure()
    elsewhere = os.urandom(1 << 20) * 64
    between = metrics.measure()
    family.do("fill")
    after = metrics.measure()
    assert abs(between["mem_used"] - before["mem_used"]) < 8 << 20 < len(elsewhere)
    assert 64 << 20 <= after["mem_used"] - before["mem_used"] < 72 << 20
    assert before["mem_cache"] > 0


@pytest.mark.live
def test_time_of_processes_that_have_ended_counts_and_that_of_others_does_not(family: Family) -> None:
    metrics = Metrics([], family.process.pid)
    began = time.monotonic()
    family.do("burn")
    while time.process_time() < 0.1:  # of this process, which is outside
        pass
    found = metrics.measure()["cpu_used_pct"]
    passed = time.monotonic() - began
    cores = len(os.sched_getaffinity(0))
    assert found > 0.8 * 100 * 0.6 / (passed * cores)
    assert found <= 100
    assert metrics.measure()["cpu_used_pct"] < 100, "since the last request, not since the beginning"


def test_ticks_of_the_kernel_never_make_more_than_all_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 1000.0])
    monkeypatch.setattr("kruise_agents.sandbox.envd.metrics._processor_seconds", lambda _family: next(seconds))
    assert Metrics([]).measure()["cpu_used_pct"] == 100


@pytest.mark.live
def test_disks_are_counted_once(family: Family, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    once = Metrics([tmp_path], family.process.pid).measure()["disk_total"]
    assert Metrics([tmp_path / "a", tmp_path / "b"], family.process.pid).measure()["disk_total"] == once


def test_files_of_the_sandbox_count_with_the_space_they_take_once(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    empty = DiskUsage([inside]).used()
    (inside / "folder").mkdir()
    (inside / "folder" / "file").write_bytes(os.urandom(1 << 20))
    (inside / "link").hardlink_to(inside / "folder" / "file")
    (inside / "out").symlink_to(tmp_path)
    with (inside / "holes").open("wb") as holes:
        holes.truncate(1 << 30)
    (tmp_path / "outside").write_bytes(os.urandom(4 << 20))
    assert 1 << 20 <= DiskUsage([inside]).used() - empty < 2 << 20


def test_one_that_asks_often_is_given_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    disk = DiskUsage([tmp_path])
    before = disk.used()
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))
    assert disk.used() == before
    now = 102.0
    assert disk.used() >= before + (1 << 20)


def test_the_disk_is_that_of_the_sandbox_and_not_of_the_machine(
    manager: RunningManager, remote: Sandbox, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    def measured() -> dict[str, int]:
        url = f"{manager.sandbox_url(remote.sandbox_id, 49983)}/metrics"
        return dict(httpx.get(url, headers=dict(remote.connection_config.sandbox_headers)).json())

    before = measured()
    assert before["disk_total"] == 10240 << 20
    assert 0 < before["disk_used"] < 100 << 20
    elsewhere = manager.state_dir / "elsewhere"
    elsewhere.write_bytes(os.urandom(1 << 20) * 100)
    remote.commands.run("head -c 30M /dev/urandom > ~/file && head -c 30M /dev/urandom > /opt/file", user="root")
    wait_until(lambda: measured()["disk_used"] >= before["disk_used"] + (60 << 20))
    assert measured()["disk_used"] < before["disk_used"] + (70 << 20)
    elsewhere.unlink()
    remote.commands.run("rm ~/file /opt/file", user="root")
    wait_until(lambda: measured()["disk_used"] < before["disk_used"] + (10 << 20))


@pytest.mark.live
def test_a_family_that_has_ended_uses_nothing(family: Family) -> None:
    metrics = Metrics([], family.process.pid)
    family.end()
    found = metrics.measure()
    assert (found["mem_used"], found["mem_cache"], found["cpu_used_pct"]) == (0, 0, 0)


@pytest.mark.live
def test_kernels_without_shares_give_whole_pages(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_text

    def read_text(path: Path, *arguments: Any, **more: Any) -> str:
        if path.name == "smaps_rollup":
            raise FileNotFoundError(path)
        return real(path, *arguments, **more)

    metrics = Metrics([], family.process.pid)
    family.do("fill")
    monkeypatch.setattr(Path, "read_text", read_text)
    assert metrics.measure()["mem_used"] >= 64 << 20


def test_a_sandbox_does_not_measure_its_neighbours(manager: RunningManager, remote: Sandbox) -> None:
    def used(sandbox: Sandbox) -> int:
        url = f"{manager.sandbox_url(sandbox.sandbox_id, 49983)}/metrics"
        found = httpx.get(url, headers=dict(sandbox.connection_config.sandbox_headers)).json()
        return int(found["mem_used"])

    with Sandbox.create("base", domain=manager.domain, api_key=manager.api_key) as other:
        before = used(remote), used(other)
        script = (
            "import os, sys; kept = bytearray(os.urandom(1 << 20)) * 100; print('ready', flush=True); sys.stdin.read()"
        )
        handle = remote.commands.run(f'python -c "{script}"', background=True, stdin=True, timeout=0)
        assert next(out for out, _, _ in handle) == "ready\n"
        after = used(remote), used(other)
    assert after[0] - before[0] >= 100 << 20
    assert after[1] - before[1] < 10 << 20
