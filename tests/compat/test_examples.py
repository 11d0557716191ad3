"""Examples of the SDK's documentation as they stand, on the oldest and the newest SDK, against a real manager."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from support.environments import ROOT, sdk_environment
from support.managers import RunningManager, running_manager
from support.matrix import PROGRAMS


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    with running_manager(tmp_path_factory.mktemp("manager")) as running:
        yield running


@pytest.mark.needs("namespaces")  # the examples name /home/user
@pytest.mark.timeout(600)
@pytest.mark.parametrize("pair", ["oldest", "newest"])
def test_the_examples_run_sync_and_async(pair: str, manager: RunningManager) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **manager.environment()}
    command = [str(sdk_environment(pair)), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=120"]
    done = subprocess.run(
        [*command, str(PROGRAMS / "examples.py")],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0 or "passed" not in done.stdout:
        pytest.fail(done.stdout, pytrace=False)
