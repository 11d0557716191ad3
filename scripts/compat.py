"""`make compat`: tries every supported SDK release on the embedded manager; writes docs/reference/compatibility.md.

A result that passed is kept below ``.venvs/compat/`` until the pair, the client's sources or the program changes. So a
run that was stopped can be continued.
"""

from __future__ import annotations

import argparse
import collections
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path

from compat_table import page

from support.environments import ROOT
from support.matrix import Cell, cell_key, fails_natively, run_cell, serving
from support.releases import BrokenPair, Pair, Releases, read_releases

KEPT = ROOT / ".venvs" / "compat"
PAGE = ROOT / "docs" / "reference" / "compatibility.md"
SCHEMES = ("https", "http")


def main() -> int:
    options = read_options()
    releases = read_releases()
    wanted = [one for one in releases.e2b if not options.only or one in options.only]
    started = time.monotonic()
    broken = check_broken_pairs(releases, wanted)
    cells = list(run_matrix(releases, wanted, options.workers))
    seconds = time.monotonic() - started
    red = [cell for cell in cells if not cell.passed]
    print(f"{len(cells)} cells in {seconds:.0f} s, {len(red)} red")
    if not options.only:
        PAGE.write_text(page(releases, cells, broken, machine(), datetime.now(UTC).date()))
        print(f"wrote {PAGE.relative_to(ROOT)}")
    return 1 if red or not all(broken.values()) else 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="programs at once (default: %(default)s)")
    parser.add_argument("--only", nargs="*", metavar="E2B", help="some releases only; the page is not written")
    return parser.parse_args()


def check_broken_pairs(releases: Releases, wanted: list[str]) -> dict[BrokenPair, bool]:
    """Return for each pair that is listed as broken if it still fails without the patch, with the listed message."""
    found = {one: fails_natively(one) for one in releases.broken if one.pair.e2b in wanted}
    for one, fails in found.items():
        if not fails:
            print(f"{one.pair}: listed as broken without any patch, but does not say {one.says!r}")
    return found


def run_matrix(releases: Releases, wanted: list[str], workers: int) -> Iterator[Cell]:
    cells = [(pair, scheme) for release in wanted for pair in releases.pairs(release) for scheme in SCHEMES]
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = {cell: KEPT / f"{cell_key(*cell)}.json" for cell in cells}
    missing = [cell for cell in cells if not kept[cell].exists()]
    print(f"{len(cells)} cells, {len(cells) - len(missing)} of them known", flush=True)
    for cell in cells:
        if cell not in missing:
            yield Cell.from_json(kept[cell].read_text())
    if missing:
        for result in run_missing(missing, workers):
            if result.passed:
                kept[result.pair, result.scheme].write_text(result.to_json())
            yield result


def run_missing(missing: list[tuple[Pair, str]], workers: int) -> Iterator[Cell]:
    with (
        tempfile.TemporaryDirectory(prefix="kruise-agents-compat-") as folder,
        serving(Path(folder)) as managers,
        ThreadPoolExecutor(workers) as pool,
    ):
        running = collections.deque[Future[Cell]](
            pool.submit(run_cell, pair, scheme, managers) for pair, scheme in missing
        )
        try:
            for number, future in enumerate(as_completed(running), 1):
                cell = future.result()
                print(f"[{number}/{len(missing)}] {cell.pair} {cell.scheme}: {verdict(cell)}", flush=True)
                yield cell
        finally:
            pool.shutdown(cancel_futures=True)


def verdict(cell: Cell) -> str:
    wrong = [
        f"\n    {mode} {surface}: {found}"
        for mode, results in cell.results.items()
        for surface, found in results.items()
        if found != "ok"
    ]
    return "ok" if not wrong else "red" + "".join(wrong)


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
