"""A sandbox behind a manager, in which users meet envd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2b import Sandbox

from support.managers import RunningManager


@pytest.fixture
def remote(manager: RunningManager, patched: None) -> Iterator[Sandbox]:
    """A sandbox of a real manager."""
    with Sandbox.create("base", domain=manager.domain, api_key=manager.api_key) as running:
        yield running
