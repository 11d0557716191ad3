"""The four ways to connect, each as the README says it, on the oldest and the newest SDK pair, sync and async."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.environments import sdk_environment
from support.namespaces import in_network_namespace

STAGE = Path(__file__).parent / "stage.py"
PROGRAM = Path(__file__).parent / "programs" / "walk.py"
CLIENTS = {f"{pair} {mode}": (pair, mode) for pair in ("newest", "oldest") for mode in ("sync", "async")}
# Runs the programs one after the other, and writes the exit code and the output of each into a file.
RUN_EACH = """
import json, pathlib, subprocess, sys
outcomes = {}
for client, command in json.loads(sys.argv[2]).items():
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
    outcomes[client] = [done.returncode, done.stdout]
    pathlib.Path(sys.argv[1]).write_text(json.dumps(outcomes))
"""

pytestmark = [pytest.mark.needs("namespaces"), pytest.mark.timeout(400)]  # ports 443 and 80 can only be bound in one


@pytest.fixture(scope="module", params=["native", "private-https", "in-cluster", "in-cluster-7788", "port-forward"])
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and output of each client, all of them with one manager that is reached in one of the ways."""
    folder = tmp_path_factory.mktemp("stage")
    commands = {client: [str(sdk_environment(pair)), str(PROGRAM), mode] for client, (pair, mode) in CLIENTS.items()}
    each = [sys.executable, "-c", RUN_EACH, str(folder / "outcomes"), json.dumps(commands)]
    command = [sys.executable, str(STAGE), request.param, str(folder), "bubblewrap", *each]
    done = subprocess.run(in_network_namespace(command, folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found: dict[str, tuple[int, str]] = json.loads((folder / "outcomes").read_text())
    return found


@pytest.mark.parametrize("client", CLIENTS)
def test_a_program_of_the_readme_runs(client: str, outcomes: dict[str, tuple[int, str]]) -> None:
    code, output = outcomes[client]
    assert (code, output.splitlines()[-1:]) == (0, ["walked"]), output
