"""Examples of the SDK's documentation as they stand, on the oldest and the newest SDK, against a real manager."""

from __future__ import annotations

import os

import pytest

from support.environments import ROOT, sdk_environment
from support.managers import RunningManager
from support.matrix import PROGRAMS
from support.programs import run_command


@pytest.mark.needs("namespaces")  # the examples name /home/user
@pytest.mark.timeout(600)
@pytest.mark.parametrize("pair", ["oldest", "newest"])
def test_the_examples_run_sync_and_async(pair: str, manager: RunningManager) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **manager.environment()}
    command = [str(sdk_environment(pair)), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=120"]
    assert "passed" in run_command([*command, PROGRAMS / "examples.py"], environment, ROOT)
