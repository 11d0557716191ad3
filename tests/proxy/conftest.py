"""A manager of either age, and a proxy in front of each, for all tests of a worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from support.managers import RunningManager, running_manager
from support.upstreams import RunningProxy, in_front_of, running_proxy


@dataclass
class Ages:
    """The managers by age, each with its proxy: ``new`` is the embedded manager, ``old`` is like OpenKruise's."""

    managers: dict[str, RunningManager]
    proxies: dict[str, RunningProxy]


@pytest.fixture(scope="session")
def ages(manager: RunningManager, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ages]:
    with ExitStack() as stack:
        old = stack.enter_context(running_manager(tmp_path_factory.mktemp("old"), "--like", "openkruise"))
        managers = {"new": manager, "old": old}
        proxies = {
            age: stack.enter_context(running_proxy(tmp_path_factory.mktemp(f"proxy-{age}"), *in_front_of(behind)))
            for age, behind in managers.items()
        }
        yield Ages(managers, proxies)
