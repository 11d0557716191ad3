"""What holds for all tests, whoever runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _whoever_runs_the_tests_can_remove_what_they_leave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither an ordinary user nor pytest for him, some runs later, could remove folders of the ids of sandboxes."""
    yield
    foreign = list(_foreign(tmp_path_factory.getbasetemp())) if os.geteuid() != 0 else []
    if foreign:
        # Not above: the environments of other SDKs do not have a manager.
        from kruise_agents.manager.runtime import BubblewrapRuntime

        runtime = BubblewrapRuntime()
        runtime.check()
        assert [folder for folder in foreign if not runtime.remove(folder)] == []


def _foreign(root: Path) -> Iterator[Path]:
    for parent, names, _ in os.walk(root):
        for name in list(names):
            folder = Path(parent, name)
            if folder.lstat().st_uid != os.geteuid():
                names.remove(name)
                yield folder
