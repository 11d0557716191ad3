"""Clients that others wrote, from their own packages, in environments of their own, through `patch_e2b(False)`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.environments import client_environment
from support.managers import RunningManager

PROGRAMS = Path(__file__).parent / "programs"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("client", "program"), [("smolagents", "smolagents_executor.py"), ("openai-agents", "openai_agents_sandbox.py")]
)
def test_what_the_client_does_works(client: str, program: str, manager: RunningManager, tmp_path: Path) -> None:
    python = client_environment(client)
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PROGRAMS / program)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ACCESS": "http"} | manager.environment()
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        pytest.fail(done.stdout, pytrace=False)
