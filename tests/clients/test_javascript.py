"""The SDK's JavaScript edition, through the native protocol and through the routing headers."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from support.environments import JAVASCRIPT, ROOT, javascript_packages
from support.managers import RunningManager, one_user_because
from support.namespaces import in_network_namespace
from support.programs import run_command

STAGE = ROOT / "tests" / "integration" / "stage.py"

pytestmark = [
    pytest.mark.needs("node"),
    pytest.mark.needs("namespaces"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def programs(tmp_path: Path) -> list[str]:
    """Return a command that runs all programs, from a folder in which the programs find their packages."""
    folder = tmp_path / "programs"
    shutil.copytree(JAVASCRIPT, folder)
    (folder / "node_modules").symlink_to(javascript_packages())
    # A call that the SDK sees refused leaves its timer behind, which would keep Node for a minute (e2b 2.51.0).
    return ["node", "--test", "--test-force-exit", f"{folder}/"]


def test_its_programs_run_with_routing_headers(programs: list[str], manager: RunningManager, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ONE_USER": one_user_because() or ""}
    environment |= {"E2B_API_URL": manager.api_url, "E2B_SANDBOX_URL": f"http://{manager.domain}"}
    said = run_command(programs, environment | {"E2B_API_KEY": manager.api_key})
    assert "\n# pass 0\n" not in said


def test_its_programs_run_natively(programs: list[str], tmp_path: Path) -> None:
    one_user = "the namespace of the test has one user"
    command = [sys.executable, str(STAGE), "native", str(tmp_path), "bubblewrap", "env", f"ONE_USER={one_user}"]
    said = run_command(in_network_namespace([*command, *programs], tmp_path), os.environ)
    assert "\n# pass 0\n" not in said
