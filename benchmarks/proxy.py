"""Speed and memory of `kruise-agents proxy`, beside nginx as a proxy, both in front of the same nginx.

`make bench-proxy` writes docs/benchmarks/proxy.json, and from these figures proxy.md.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks import records, written
from benchmarks.records import Record
from benchmarks.sandbox import Call, Peaks, curl, nginx, status, timed

from support.upstreams import running_proxy

BYTES = 256 * 2**20
STREAMS = 100
STREAM_BYTES = 16 * 2**20
TIMES = 7
PREFIX = "kruise/x/80"


def main() -> int:
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        # In memory, so that no disk is measured.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        for name in ("origin", "nginx", "proxy"):
            (folder / name).mkdir(mode=0o755)
        folder.chmod(0o755)
        source = folder / "source.bin"
        source.write_bytes(os.urandom(2**20) * (BYTES >> 20))
        origin = stack.enter_context(nginx(folder / "origin"))
        served = folder / "origin" / "nginx" / "www" / PREFIX
        for made in (served, *list(served.parents)[:1]):
            made.mkdir(parents=True, exist_ok=True)
            made.chmod(0o777)
        (served / "stream.bin").write_bytes(os.urandom(STREAM_BYTES))
        (served / "stream.bin").chmod(0o644)
        behind = stack.enter_context(nginx(folder / "nginx", behind=origin))
        proxy = stack.enter_context(running_proxy(folder / "proxy", "--upstream", origin, "--log-level", "warning"))
        bases = {"nginx": f"{behind}/behind/{PREFIX}", "proxy": f"{proxy.url}/{PREFIX}", "none": f"{origin}/{PREFIX}"}
        written_record = {
            "made": records.circumstances("make bench-proxy", load),
            **transfers(bases, source, proxy.pid),
            **streams(bases, proxy.pid),
        }
    records.write("proxy", written_record)
    written.write()
    print((records.FOLDER / "proxy.md").read_text())
    return 0


def transfers(bases: dict[str, str], source: Path, pid: int) -> Record:
    """Return the rates of uploads and downloads, and the memory of the proxy before, after, and at its highest."""
    ways: dict[str, dict[str, Call]] = {
        "up": {name: partial(curl, "-T", str(source), f"{base}/{name}.bin") for name, base in bases.items()},
        "down": {name: partial(curl, f"{base}/{name}.bin") for name, base in bases.items()},
    }
    times: dict[str, dict[str, list[float]]] = {way: {name: [] for name in sides} for way, sides in ways.items()}
    for way, sides in ways.items():
        for call in sides.values():
            call()  # the first upload makes the file
        times[way] = {name: [] for name in sides}
    peaks = Peaks({"proxy": pid})
    for _ in range(TIMES):
        for way, sides in ways.items():
            for name, call in sides.items():
                times[way][name].append(timed(call))
    before, peak = peaks.grown()["proxy"]
    rates = {
        way: {name: BYTES / 1e6 / statistics.median(of_side) for name, of_side in sides.items()}
        for way, sides in times.items()
    }
    return {
        "megabytes": BYTES >> 20,
        "times": TIMES,
        "rates": rates,
        "ratio": {way: sides["proxy"] / sides["nginx"] for way, sides in rates.items()},
        "memory": {"before": before, "peak": peak, "after": status(pid, "VmRSS")},
    }


def streams(bases: dict[str, str], pid: int) -> Record:
    """Return the time of many downloads at once, and the memory of the proxy."""
    seconds: dict[str, list[float]] = {name: [] for name in bases}
    peaks = Peaks({"proxy": pid})
    with ThreadPoolExecutor(STREAMS) as pool:
        for _ in range(3):
            for name, base in bases.items():
                call = partial(curl, f"{base}/stream.bin")
                seconds[name].append(timed(lambda call=call: list(pool.map(lambda _: call(), range(STREAMS)))))  # type: ignore[misc]
    before, peak = peaks.grown()["proxy"]
    return {
        "streams": {
            "count": STREAMS,
            "megabytes": STREAM_BYTES >> 20,
            "seconds": {name: statistics.median(of_side) for name, of_side in seconds.items()},
            "memory": {"before": before, "peak": peak, "after": status(pid, "VmRSS")},
        }
    }


if __name__ == "__main__":
    sys.exit(main())
