"""The four ways to connect, each as the README says it, on the oldest and the newest SDK pair, sync and async."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.environments import sdk_environment
from support.namespaces import in_network_namespace

STAGE = Path(__file__).parent / "stage.py"
PROGRAM = Path(__file__).parent / "programs" / "walk.py"

pytestmark = pytest.mark.needs("namespaces")  # ports 443 and 80 can only be bound in one


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("pair", ["newest", "oldest"])
@pytest.mark.parametrize("way", ["native", "private-https", "in-cluster", "in-cluster-7788", "port-forward"])
def test_a_program_of_the_readme_runs(way: str, pair: str, mode: str, tmp_path: Path) -> None:
    client = [str(sdk_environment(pair)), str(PROGRAM), mode]
    command = [sys.executable, str(STAGE), way, str(tmp_path), "bubblewrap", *client]
    done = subprocess.run(
        in_network_namespace(command, tmp_path), capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["walked"]), f"{done.stdout}\n{done.stderr}"
