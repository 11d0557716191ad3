"""Costs of many sandboxes, beside a cold Jupyter kernel in the same run.

`make bench-fleet` writes docs/benchmarks/fleet.json, and from these figures fleet.md (the text below the table is
kept), and docs/explanation/performance.md with its pictures.

Two managers run, one with a warm pool and one without. Single creates of both and starts of a plain kernel take turns,
so that other work of the machine slows down all three alike.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import records, written
from benchmarks.records import Record
from e2b_code_interpreter import AsyncSandbox, Sandbox
from jupyter_client.manager import KernelManager

from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, descendants, running_manager, wait_for

IDLE_SECONDS = 10
"""The time in which the processor time of idle sandboxes is measured."""


def main() -> int:
    options = _options()
    record: Record = {
        "made": records.circumstances("make bench-fleet", os.getloadavg()[2]),
        "rounds": options.rounds,
        "pool": options.pool,
        "at_once": {"creates": options.at_once},
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch_e2b(False))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("cold", "warm"):
            (folder / name).mkdir()
        cold = stack.enter_context(running_manager(folder / "cold", "--log-level", "warning"))
        warm = stack.enter_context(running_manager(folder / "warm", "--log-level", "warning", pool=options.pool))
        figures = single(cold, warm, options)
        jupyter = statistics.median(figures["jupyter"])
        record |= {name: times(seconds, jupyter) for name, seconds in figures.items()}
        for name, manager in (("without pool", cold), ("with pool", warm)):
            if manager is warm:
                wait_for(lambda: pooled(warm) == options.pool, 120, "a full pool")
            took, failures = asyncio.run(at_once(manager, options.at_once))
            record["at_once"][name] = {"seconds": took, "failed": failures, "of_jupyter": took / jupyter}
        record["cycles"] = sustained(warm, options)
        record["idle"] = live(cold, options)
    records.write("fleet", record)
    print(written.write()["fleet.md"])
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="single creates of each kind")
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=60, help="of create, run_code and kill")
    parser.add_argument("--workers", type=int, default=4, help="clients that do so")
    parser.add_argument("--live", type=int, default=100, help="sandboxes that live side by side")
    parser.add_argument("--pool", type=int, default=4)
    return parser.parse_args()


def single(cold: RunningManager, warm: RunningManager, options: argparse.Namespace) -> dict[str, list[float]]:
    """Take turns with a plain kernel and both managers, and return the seconds of each kind."""
    found: dict[str, list[float]] = {"jupyter": [], "cold": [], "warm": [], "created": []}
    for _ in range(options.rounds):
        wait_for(lambda: pooled(warm) == options.pool, 120, "a full pool")
        found["jupyter"].append(timed(jupyter_kernel))
        found["cold"].append(first_result(cold)[1])
        created, took = first_result(warm)
        found["created"].append(created)
        found["warm"].append(took)
    return found


def jupyter_kernel() -> None:
    """Start a plain kernel and run ``1+1``. A thread ends the kernel, so that the caller does not measure the end."""
    kernel = KernelManager()
    kernel.start_kernel(stderr=subprocess.DEVNULL)
    client = kernel.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        client.execute_interactive("1+1", output_hook=lambda message: None, timeout=60)
    finally:
        client.stop_channels()
        threading.Thread(target=kernel.shutdown_kernel, kwargs={"now": True}).start()


def first_result(manager: RunningManager) -> tuple[float, float]:
    started = time.perf_counter()
    sandbox = create(manager)
    created = time.perf_counter() - started
    try:
        assert sandbox.run_code("1+1").text == "2"
        return created, time.perf_counter() - started
    finally:
        sandbox.kill()


async def at_once(manager: RunningManager, count: int) -> tuple[float, int]:
    """Return the seconds until all creates have given a first result, and the number of failures."""

    async def one() -> AsyncSandbox:
        sandbox = await AsyncSandbox.create(domain=manager.domain, api_key=manager.api_key, request_timeout=120)
        assert (await sandbox.run_code("1+1")).text == "2"
        return sandbox

    started = time.perf_counter()
    made = await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)
    took = time.perf_counter() - started
    sandboxes = [one for one in made if isinstance(one, AsyncSandbox)]
    for failure in made:
        if isinstance(failure, BaseException):
            print(f"a create failed: {failure!r}", file=sys.stderr)
    await asyncio.gather(*(sandbox.kill() for sandbox in sandboxes))
    return took, count - len(sandboxes)


def sustained(manager: RunningManager, options: argparse.Namespace) -> Record:
    """Measure cycles of create, ``run_code`` and kill by several clients at once."""
    done: list[float] = []
    failures: list[BaseException] = []
    end = time.monotonic() + options.seconds

    def work() -> None:
        while time.monotonic() < end:
            try:
                done.append(timed(lambda: first_result(manager)))
            except Exception as error:  # counted: the figure is worth nothing without them
                failures.append(error)
                print(f"a cycle failed: {error!r}", file=sys.stderr)

    before = cpu_seconds([manager.process.pid])
    started = time.monotonic()
    workers = [threading.Thread(target=work) for _ in range(options.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.monotonic() - started
    share = (cpu_seconds([manager.process.pid]) - before) / took
    return {
        "seconds": options.seconds,
        "clients": options.workers,
        "a_second": len(done) / took,
        "failed": len(failures),
        "p50_s": quantile(done, 50),
        "p99_s": quantile(done, 99),
        "manager_share": share,
    }


def live(manager: RunningManager, options: argparse.Namespace) -> Record:
    """Measure memory and processor time of idle sandboxes."""
    empty = memory([manager.process.pid])
    sandboxes = []
    for _ in range(options.live):
        sandbox = create(manager, timeout=3600)
        sandbox.run_code("1+1")
        sandboxes.append(sandbox)
    below = descendants(manager.process.pid)
    parts = {"kernel": memory(p for p in below if name_of(p).startswith("python")), "all": memory(below)}
    grown = memory([manager.process.pid]) - empty
    before, started = cpu_seconds(below), time.monotonic()
    time.sleep(IDLE_SECONDS)
    idle = (cpu_seconds(below) - before) / (time.monotonic() - started) / options.live
    for sandbox in sandboxes:
        sandbox.kill()
    each, kernel = parts["all"] / options.live, parts["kernel"] / options.live
    return {
        "sandboxes": options.live,
        "mb": each,
        "kernel_mb": kernel,
        "rest_mb": each - kernel,
        "manager_kb": grown / options.live * 1000,
        "cpu_ms_a_second": idle * 1000,
    }


def create(manager: RunningManager, **more: Any) -> Sandbox:
    return Sandbox.create(domain=manager.domain, api_key=manager.api_key, request_timeout=120, **more)


def pooled(manager: RunningManager) -> int:
    import httpx

    match = re.search(
        r"^kruise_agents_pool_size\{.*\} (\d+)$", httpx.get(f"http://{manager.domain}/metrics").text, re.M
    )
    return int(match[1]) if match else 0


def name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def memory(pids: Any) -> float:
    """Return the memory of processes in MB. A page that several processes share is divided among them (PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            match = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
            total += int(match[1]) if match else 0
    return total / 1000


def cpu_seconds(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def times(seconds: list[float], jupyter: float) -> Record:
    middle = statistics.median(seconds)
    return {"p50_ms": middle * 1e3, "p99_ms": quantile(seconds, 99) * 1e3, "of_jupyter": middle / jupyter}


def quantile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
