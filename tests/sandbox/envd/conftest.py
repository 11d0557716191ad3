"""envd as its users meet it: in a sandbox, behind a manager."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2b import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, running_manager


@pytest.fixture(scope="session")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    with running_manager(tmp_path_factory.mktemp("manager")) as running:
        yield running


@pytest.fixture
def patched() -> Iterator[None]:
    with patch_e2b(False):
        yield


@pytest.fixture
def remote(manager: RunningManager, patched: None) -> Iterator[Sandbox]:
    """A sandbox of that manager."""
    with Sandbox.create("base", domain=manager.domain, api_key=manager.api_key) as running:
        yield running
