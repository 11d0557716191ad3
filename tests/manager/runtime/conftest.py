"""Managers and parameters that the tests of several modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.managers import NO_IDENTITIES, RunningManager, one_user_because, running_manager


@pytest.fixture(scope="session")
def one_user_manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    """A manager with namespaces whose sandboxes have one user."""
    with running_manager(tmp_path_factory.mktemp("one-user"), runtime="bubblewrap", prelude=NO_IDENTITIES) as running:
        yield running


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    """A manager whose sandboxes are not isolated."""
    with running_manager(tmp_path_factory.mktemp("bare"), runtime="process") as running:
        yield running


@pytest.fixture(scope="module", params=["several users", "one user"])
def users(request: pytest.FixtureRequest) -> str:
    if request.param == "several users" and (reason := one_user_because()):
        pytest.skip(f"sandboxes have one user: {reason}")
    return str(request.param)
