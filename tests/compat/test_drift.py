"""The alarm of `make drift`, on an SDK that is as it was and on one that changed."""

from __future__ import annotations

import subprocess

import pytest

from support.environments import ROOT, sdk_environment

pytestmark = pytest.mark.live

CHANGE = """
import e2b
e2b.ConnectionConfig.get_host = lambda self, sandbox_id, port: ""
del e2b.sandbox.main.SandboxBase._file_url
"""
LOOK = """
import sys
sys.path.insert(0, "scripts")
import drift
sys.exit(drift.look(packages=("e2b", "e2b-code-interpreter")))
"""


def look(program: str) -> subprocess.CompletedProcess[str]:
    command = [str(sdk_environment("newest")), "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_an_sdk_with_every_place_is_said_to_stand() -> None:
    done = look(LOOK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "installed  S2    e2b.connection_config.ConnectionConfig.get_host\n" in done.stdout


def test_a_changed_and_a_missing_place_are_named() -> None:
    done = look(CHANGE + LOOK)
    assert done.returncode == 1, done.stderr
    place = "e2b.connection_config.ConnectionConfig.get_host"
    assert f"drifted    S2    {place}: expected a function (self, sandbox_id, sandbox_domain, port); " in done.stdout
    assert "missing    S4    e2b.sandbox.main.SandboxBase._file_url: expected a function" in done.stdout
