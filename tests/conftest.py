"""Rules for all tests: what each may start, what it needs of the machine, and what a run leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kruise_agents.patch_e2b import patch_e2b
from support.guard import guard

if TYPE_CHECKING:
    from support.managers import RunningManager

_LIVE_FIXTURES = {"manager", "managers", "one_user_manager", "bare", "served"}
"""Fixtures that start managers or kernels; a test that uses one of them is live."""

with contextlib.suppress(ModuleNotFoundError):  # the clients of others have environments without hypothesis
    from hypothesis import settings

    settings.register_profile("fuzz", max_examples=2000, deadline=None, print_blob=True)  # make fuzz


def pytest_configure() -> None:
    """Handle the signals that ``nohup`` or a script's ``&`` made this run ignore.

    Children inherit an ignored signal, but not a handler. So tests that send their children a signal hold there too.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    with guard.watching():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _LIVE_FIXTURES.intersection(getattr(item, "fixturenames", ())) or item.get_closest_marker("needs"):
            item.add_marker("live")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    needs = [need for marker in item.iter_markers("needs") for need in marker.args]
    if needs:
        from support.needs import missing  # not above: in environments of other SDKs there is no manager

        for need in needs:
            if reason := missing(need):
                pytest.skip(reason)
    with _watching(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    with _watching(item):
        return (yield)


def _watching(item: pytest.Item) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if item.get_closest_marker("live") else guard.watching()


@pytest.fixture(scope="session")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    """A manager for all tests of a worker."""
    from support.managers import running_manager  # as above

    with running_manager(tmp_path_factory.mktemp("manager")) as running:
        yield running


@pytest.fixture
def patched() -> Iterator[None]:
    """The patch, over plain http."""
    with patch_e2b(False):
        yield


@pytest.fixture(scope="session", autouse=True)
def _whoever_runs_the_tests_can_remove_what_they_leave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove folders that belong to ids of sandboxes; neither an ordinary user nor pytest could remove them later."""
    yield
    foreign = list(_foreign(tmp_path_factory.getbasetemp())) if os.geteuid() != 0 else []
    if foreign:
        from kruise_agents.manager.runtime import BubblewrapRuntime  # as above

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
