"""Many sandboxes come and go, and nothing is left of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kruise_agents.patch_e2b import patch_e2b
from support.managers import running_manager, wait_for
from support.soak import cycle, settled

CYCLES = 20
POOL = 1


def test_nothing_is_left_of_many_sandboxes(tmp_path: Path) -> None:
    with patch_e2b(False), running_manager(tmp_path, pool=POOL) as manager, ThreadPoolExecutor(3) as workers:
        for _ in range(3):
            cycle(manager)
        before = settled(manager, POOL)
        for done in [workers.submit(cycle, manager) for _ in range(CYCLES)]:
            done.result()
        # Connections of the last cycles may be open for a moment still.
        left: list[str] = []

        def nothing_left() -> bool:
            left[:] = settled(manager, POOL).more_than(before)
            return not left

        try:
            wait_for(nothing_left, 60, "an end of what was there")
        except AssertionError:
            raise AssertionError(f"left over: {left}") from None
