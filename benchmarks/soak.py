"""A soak test, which makes, uses and kills thousands of sandboxes: `make soak ARGS="--cycles 10000"`.

Nothing may be left of the sandboxes. After every hundred cycles the test prints its progress and the resources in use.
Ctrl-C ends the cycles at any time; the comparison with the start follows.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
import time
from pathlib import Path

from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, running_manager
from support.soak import Remains, cycle, settled

STEP = 100
WARM_UP = 50
"""Cycles before the first measurement, in which caches are filled and code is compiled."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--pool", type=int, default=2)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(patch_e2b(False))
        manager = stack.enter_context(running_manager(folder, "--log-level", "warning", pool=options.pool))
        run(manager, WARM_UP, options.workers)
        before = settled(manager, options.pool)
        print(f"before: {before}", flush=True)
        done, started = 0, time.monotonic()
        try:
            while done < options.cycles:
                run(manager, min(STEP, options.cycles - done), options.workers)
                done += min(STEP, options.cycles - done)
                rate = done / (time.monotonic() - started)
                print(f"{done} cycles, {rate:.1f} a second: {Remains.of(manager)}", flush=True)
        except KeyboardInterrupt:
            print(f"ended after {done} cycles", flush=True)
        after = settled(manager, options.pool)
    print(f"after:  {after}")
    more = after.more_than(before)
    print("\n".join(f"left over: {line}" for line in more) or "nothing is left over")
    return 1 if more else 0


def run(manager: RunningManager, cycles: int, workers: int) -> None:
    """Run cycles in several threads. After the first failure, end all threads and raise the failure."""
    failures: list[BaseException] = []
    left = iter(range(cycles))
    lock = threading.Lock()

    def work() -> None:
        while not failures:
            with lock:
                if next(left, None) is None:
                    return
            try:
                cycle(manager)
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    sys.exit(main())
