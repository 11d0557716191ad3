"""One manager for the clients of a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.managers import RunningManager, running_manager


@pytest.fixture(scope="session")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    with running_manager(tmp_path_factory.mktemp("clients")) as running:
        yield running
