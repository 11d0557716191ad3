"""Calls that OpenKruise's manager would misread, on three generations of the SDK and a manager that misreads them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.environments import sdk_environment
from support.managers import RunningManager, running_manager
from support.matrix import run_program


@pytest.fixture
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    with running_manager(tmp_path_factory.mktemp("openkruise"), "--like", "openkruise") as manager:
        yield manager


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pair", ["oldest", "2.38", "newest"])
def test_no_call_is_silently_wrong(pair: str, manager: RunningManager) -> None:
    said = run_program(sdk_environment(pair), "older_manager.py", manager.environment())
    assert said.strip() == "works"
